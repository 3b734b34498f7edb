#include "runtime/job/run_directory.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "runtime/job/atomic_file.h"
#include "runtime/job/config_difference.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

constexpr std::chrono::milliseconds kLockPatience{1'500};  // a second job is refused within 2 s

std::string DefaultPath(const ResolvedJob& job) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &local);
  return "runs/" + (job.job.name().empty() ? "run" : job.job.name()) + "-" + stamp;
}

namespace fs = std::filesystem;

// What cannot be looked at is taken for there, not for new: opening it will tell why it cannot.
bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::status(path, ignored).type() != fs::file_type::not_found;
}

bool HoldsRun(const fs::path& path) {
  return Exists(path / "config.textproto") || Exists(path / "metrics.jsonl");
}

absl::StatusOr<Job> KeptJob(const fs::path& directory) {
  Job job;
  std::vector<ConfigProblem> problems;
  if (ReadKeptJob(directory.string(), &job, &problems)) return job;
  return absl::FailedPreconditionError(Describe(problems, (directory / "config.textproto")) +
                                       "so it cannot be told whether this job may go on there");
}

// A run goes on only as the same experiment.
absl::Status CheckSameExperiment(const fs::path& run, const ResolvedJob& job) {
  ASSIGN_OR_RETURN(const Job kept, KeptJob(run));
  std::vector<FieldDifference> differences = Differences(kept, job.job);
  std::erase_if(differences, [](const auto& each) { return MayChangeOnResume(each.path); });
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      run.string() +
      " holds a run of another job (its value -> this job's):" + Describe(differences) +
      "\nrestore these values; or begin a new run, from this one's state by --run NEW --resume " +
      run.string() + ", or from nothing by another --run");
}

// The run that the state at `start_from` belongs to, if its config is there.
fs::path RunOf(const fs::path& start_from) {
  for (const fs::path& each : {start_from, start_from.parent_path().parent_path()}) {
    if (Exists(each / "config.textproto")) return each;
  }
  return {};
}

// What another run's state must share with this job beyond the shapes of its tensors, which
// restoring compares.
absl::Status CheckOrigin(const fs::path& start_from, const ResolvedJob& job) {
  if (!Exists(start_from / "checkpoints") && !Exists(start_from / "manifest.json")) {
    return absl::NotFoundError("--resume " + start_from.string() +
                               ": wanted a run directory with checkpoints/, or one checkpoint, "
                               "step-<n>, found neither");
  }
  const fs::path run = RunOf(start_from);
  if (run.empty()) {
    kernels::Log(kernels::Severity::kWarning,
                 "no config.textproto belongs to " + start_from.string() +
                     ": only names, shapes and types of tensors are compared with this job's");
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Job kept, KeptJob(run));
  std::vector<FieldDifference> fixed, other;
  for (FieldDifference& each : Differences(kept, job.job)) {
    if (each.path == "model.name" || each.path == "name") continue;
    (each.path.starts_with("model.") ? fixed : other).push_back(std::move(each));
  }
  if (!fixed.empty()) {
    return absl::FailedPreconditionError(
        "--resume " + start_from.string() +
        " holds another model (its value -> this job's):" + Describe(fixed));
  }
  if (!other.empty()) {
    kernels::Log(kernels::Severity::kInfo,
                 "the new run differs from " + run.string() + " in:" + Describe(other));
  }
  return absl::OkStatus();
}

// What attempts that died while they wrote a file have left.
void RemoveTornFiles(const fs::path& run) {
  std::error_code error;
  for (fs::directory_iterator entry(run, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    const bool torn = entry->path().filename().string().find(".partial-") != std::string::npos;
    if (torn && entry->is_regular_file(ignored)) fs::remove(entry->path(), ignored);
  }
}

absl::StatusOr<std::string> ReadOrigin(const fs::path& run) {
  std::ifstream file(run / "origin");
  std::string origin;
  if (Exists(run / "origin") && !std::getline(file, origin)) {
    return absl::DataLossError((run / "origin").string() + ": wanted a path, found nothing");
  }
  return origin;
}

// Files of a new run; config.textproto comes last, since by it a run is known.
absl::Status WriteNewRun(const fs::path& path, const RunDirectoryOptions& options,
                         const ResolvedJob& job) {
  if (!job.job.data().tokenizer().empty()) {
    std::error_code error;
    fs::copy_file(job.job.data().tokenizer(), path / "tokenizer.model",
                  fs::copy_options::overwrite_existing, error);
    if (!error) {  // a copy has the permissions of what it was made from
      fs::permissions(path / "tokenizer.model", fs::perms::owner_read | fs::perms::owner_write,
                      error);
    }
    if (error) return FileError("copy " + job.job.data().tokenizer(), error.value());
  }
  if (options.resume == ResumeMode::kFrom) {
    const fs::path origin = fs::absolute(options.start_from).lexically_normal();
    RETURN_IF_ERROR(WriteFileAtomically(path / "origin", origin.string() + "\n"));
  }
  return WriteFileAtomically(path / "config.textproto", job.text);
}

absl::Status CheckResume(const fs::path& path, const RunDirectoryOptions& options,
                         const ResolvedJob& job) {
  if (!HoldsRun(path)) return absl::OkStatus();
  if (options.resume == ResumeMode::kAuto) return CheckSameExperiment(path, job);
  return absl::AlreadyExistsError(
      path.string() +
      " holds a run already; continue it with --resume auto, choose another --run directory, or "
      "remove this one");
}

// In a directory that exists.
absl::StatusOr<RunDirectory> Claim(const fs::path& path, const RunDirectoryOptions& options,
                                   const ResolvedJob& job) {
  RunDirectory claimed{.path = path.string()};
  ASSIGN_OR_RETURN(claimed.lock, RunLock::Take(claimed.path, kLockPatience, options.start));
  RETURN_IF_ERROR(CheckResume(path, options, job));  // another job may have made it meanwhile
  RemoveTornFiles(path);
  const bool is_new = !HoldsRun(path);
  if (is_new) RETURN_IF_ERROR(WriteNewRun(path, options, job));
  ASSIGN_OR_RETURN(claimed.start_from, ReadOrigin(path));
  ASSIGN_OR_RETURN(claimed.attempt, claimed.lock->BeginAttempt());
  if (is_new) return claimed;
  ASSIGN_OR_RETURN(const Job kept, KeptJob(path));
  if (!Differences(kept, job.job).empty()) {
    const std::string name = "config.attempt-" + std::to_string(claimed.attempt) + ".textproto";
    RETURN_IF_ERROR(WriteFileAtomically(path / name, job.text));
  }
  return claimed;
}

// Makes `path` and what is missing above it; `first_new`: the first that was not there, or "".
absl::Status MakeDirectories(const fs::path& path, fs::path* first_new) {
  fs::path made;
  for (const fs::path& part : path) {
    made /= part;
    const int error = mkdir(made.c_str(), 0777) == 0 ? 0 : errno;
    if (error == 0 && first_new->empty()) *first_new = made;
    if (error != 0 && error != EEXIST && !Exists(made)) {
      return FileError("create run directory " + path.string(), error);
    }
  }
  return absl::OkStatus();
}

// On rank 0: what it made is removed again if anything fails, unless another job has moved in.
absl::StatusOr<RunDirectory> Make(const RunDirectoryOptions& options, const ResolvedJob& job) {
  const fs::path path =
      fs::absolute(options.path.empty() ? DefaultPath(job) : options.path).lexically_normal();
  RETURN_IF_ERROR(CheckResume(path, options, job));
  if (options.resume == ResumeMode::kFrom) {
    RETURN_IF_ERROR(CheckOrigin(fs::absolute(options.start_from).lexically_normal(), job));
  }
  fs::path first_new;
  const absl::Status made = MakeDirectories(path, &first_new);
  absl::StatusOr<RunDirectory> claimed =
      made.ok() ? Claim(path, options, job) : absl::StatusOr<RunDirectory>(made);
  if (!claimed.ok() && !first_new.empty() && !absl::IsAborted(claimed.status())) {
    std::error_code ignored;
    fs::remove_all(first_new, ignored);
  }
  if (absl::IsPermissionDenied(claimed.status())) {
    return kernels::Annotate(claimed.status(),
                             "run directory " + path.string() + " cannot be used");
  }
  return claimed;
}

// Rank 0's answer as text and back.
std::string Encode(const absl::StatusOr<RunDirectory>& mine) {
  if (!mine.ok()) {
    return absl::StrCat("-", static_cast<int>(mine.status().code()), "\n", mine.status().message());
  }
  return absl::StrCat("+", mine->attempt, "\n", mine->path, "\n", mine->start_from);
}

absl::StatusOr<RunDirectory> Decode(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, absl::MaxSplits('\n', 1));
  int number = 0;
  if (lines.size() != 2 || lines[0].size() < 2 || !absl::SimpleAtoi(lines[0].substr(1), &number)) {
    return absl::InternalError("rank 0 gave no run directory");
  }
  if (lines[0][0] == '-') return absl::Status(static_cast<absl::StatusCode>(number), lines[1]);
  const std::vector<std::string> paths = absl::StrSplit(lines[1], '\n');
  return RunDirectory{.path = paths.front(), .attempt = number, .start_from = paths.back()};
}

}  // namespace

absl::StatusOr<RunDirectory> PrepareRunDirectory(const RunDirectoryOptions& options,
                                                 const ResolvedJob& job, parallel::World& world) {
  absl::StatusOr<RunDirectory> mine = RunDirectory{};
  if (world.rank() == 0) mine = Make(options, job);
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(Encode(mine)));
  return world.rank() == 0 ? std::move(mine) : Decode(all.front());
}

}  // namespace muster::runtime
