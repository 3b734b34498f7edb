#include "runtime/job/run_directory.h"

#include <ctime>
#include <filesystem>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

std::string DefaultPath(const ResolvedJob& job) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &local);
  return "runs/" + (job.job.name().empty() ? "run" : job.job.name()) + "-" + stamp;
}

// On rank 0: the first directory that did not exist is removed again if anything fails.
absl::StatusOr<std::string> Make(const std::string& wanted, const ResolvedJob& job) {
  namespace fs = std::filesystem;
  const fs::path path = fs::absolute(wanted.empty() ? DefaultPath(job) : wanted).lexically_normal();
  if (fs::exists(path / "config.textproto") || fs::exists(path / "metrics.jsonl")) {
    return absl::AlreadyExistsError(path.string() +
                                    " holds a run already; choose another --run directory, or "
                                    "remove this one");
  }
  fs::path first_new = path;
  while (!fs::exists(first_new.parent_path()) && first_new.has_relative_path()) {
    first_new = first_new.parent_path();
  }
  const bool created = !fs::exists(path);
  std::error_code error;
  fs::create_directories(path, error);
  absl::Status status;
  if (error) {
    status = absl::PermissionDeniedError("cannot create run directory " + path.string() + ": " +
                                         error.message());
  } else {
    status = kernels::Annotate(WriteFileAtomically((path / "config.textproto").string(), job.text),
                               "run directory " + path.string() + " cannot be used");
  }
  if (status.ok() && !job.job.data().tokenizer().empty()) {
    fs::copy_file(job.job.data().tokenizer(), path / "tokenizer.model", error);
    if (error) status = absl::UnavailableError("copying the tokenizer: " + error.message());
  }
  if (!status.ok() && created) fs::remove_all(first_new, error);
  RETURN_IF_ERROR(status);
  return path.string();
}

}  // namespace

absl::StatusOr<RunDirectory> PrepareRunDirectory(const std::string& wanted, const ResolvedJob& job,
                                                 parallel::World& world) {
  std::string mine;  // "+path" or "-error"
  if (world.rank() == 0) {
    const absl::StatusOr<std::string> path = Make(wanted, job);
    mine = path.ok() ? "+" + *path : "-" + std::string(path.status().message());
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(mine));
  const std::string& answer = all.front();
  if (answer.empty() || answer[0] != '+') {
    return absl::FailedPreconditionError(answer.empty() ? "rank 0 gave no run directory"
                                                        : answer.substr(1));
  }
  return RunDirectory{.path = answer.substr(1), .attempt = 0};
}

absl::Status CheckAgreement(const ResolvedJob& job, const std::string& build,
                            parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   world.GatherText(kernels::HexDigits(job.hash) + " " + build));
  std::string differing;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] != all.front()) {
      differing += "\n  rank " + std::to_string(rank) + ": " + all[rank];
    }
  }
  if (differing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "ranks disagree on config hash or build; start every rank with the same binary, config and "
      "--set options\n  rank 0: " +
      all.front() + differing);
}

}  // namespace muster::runtime
