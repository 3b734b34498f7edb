#include "launch/commands/ckpt.h"

#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "launch/exit_codes.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/restore.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/storage_speed.h"

namespace muster::launch {
namespace {

using runtime::CheckpointReader;

// The checkpoints that RUN means, a run directory or one checkpoint: newest first.
struct Found {
  std::string directory;  // that holds them
  std::vector<int64_t> steps;
  std::string Path(int64_t step) const { return directory + "/" + runtime::CheckpointName(step); }
};

// "step-20, step-10"
std::string NamesOf(const std::vector<int64_t>& steps) {
  return absl::StrJoin(steps, ", ", [](std::string* out, int64_t step) {
    absl::StrAppend(out, runtime::CheckpointName(step));
  });
}

// Why there is no checkpoint in `run`.
absl::Status NoneIn(const std::string& run) {
  if (!runtime::Exists(run)) return absl::NotFoundError(run + " does not exist");
  if (!runtime::Exists(run + "/config.textproto") && !runtime::Exists(run + "/checkpoints")) {
    return absl::NotFoundError(run +
                               " is no run directory: wanted checkpoints/ or config.textproto in "
                               "it, found neither");
  }
  return absl::NotFoundError(
      run +
      " has no checkpoint yet (if its checkpoint.every_steps is 0, it saves only when it is "
      "stopped by a signal)");
}

// Of `run`, only `step` if it is not -1. Errors: there is none; `run` is one of another step.
absl::StatusOr<Found> Find(const std::string& run, int64_t step) {
  const runtime::RestoreSource source = runtime::SourceOf(run);
  if (source.step >= 0 && step >= 0 && step != source.step) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is one checkpoint; --step %d wants a run directory", run, step));
  }
  if (source.step >= 0) step = source.step;
  ASSIGN_OR_RETURN(std::vector<int64_t> steps, runtime::ListCheckpoints(source.directory));
  if (steps.empty() && source.step < 0) return NoneIn(run);
  if (step < 0) return Found{source.directory, std::move(steps)};
  if (std::find(steps.begin(), steps.end(), step) == steps.end()) {
    return absl::NotFoundError(absl::StrFormat("%s has no checkpoint of step %d, but %s",
                                               source.directory, step,
                                               steps.empty() ? "none at all" : NamesOf(steps)));
  }
  return Found{source.directory, {step}};
}

// A checkpoint of a run that may be alive: which directory it is.
class Watched {
 public:
  explicit Watched(std::string path) : path_(std::move(path)), error_(Look(&before_)) {}
  const std::string& path() const { return path_; }
  // Whether the run has removed or replaced it since.
  bool IsGone() const {
    struct stat now {};
    const int error = Look(&now);
    if (error_ == 0 && error == 0) {
      return now.st_ino != before_.st_ino || now.st_dev != before_.st_dev;
    }
    for (const int gone : {ENOENT, ENOTDIR, ESTALE}) {
      if (error_ == gone || error == gone) return true;
    }
    return false;
  }

 private:
  // Returns errno; 0: it is there.
  int Look(struct stat* facts) const { return lstat(path_.c_str(), facts) == 0 ? 0 : errno; }
  const std::string path_;
  struct stat before_ {};
  const int error_;
};

constexpr char kGone[] = "removed (or replaced) meanwhile by the run";

// What the manifest says, or why it cannot be trusted.
nlohmann::ordered_json Describe(const Found& found, int64_t step) {
  nlohmann::ordered_json facts = {{"name", runtime::CheckpointName(step)}, {"step", step}};
  const Watched checkpoint(found.Path(step));
  const auto reader = CheckpointReader::Open(checkpoint.path());
  if (!reader.ok()) {
    if (checkpoint.IsGone()) {
      facts["gone"] = kGone;
    } else {
      facts["damage"] = reader.status().message();
    }
    return facts;
  }
  const runtime::Manifest& manifest = (*reader)->manifest();
  facts["bytes"] = manifest.bytes();
  facts["shards"] = manifest.shards.size();
  facts["tensors"] = manifest.tensors.size();
  facts["samples"] = manifest.facts.samples;
  facts["skipped_steps"] = manifest.facts.skipped_steps;
  facts["attempt"] = manifest.facts.attempt;
  facts["mesh"] = manifest.facts.mesh;
  facts["parent"] = manifest.facts.parent;
  facts["config_hash"] = kernels::HexDigits(manifest.facts.config_hash);
  return facts;
}

class List : public Command {
 public:
  CommandText text() const override {
    return {"list", "the committed checkpoints of a run, newest first",
            "Reads the manifests only; verify reads every byte.", "muster ckpt list runs/first"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("RUN", run_, "a run directory, or one checkpoint, .../step-<n>")->required();
    app.add_flag("--json", json_, "print a JSON array instead of text");
  }
  int Run(Console console) override {
    const absl::StatusOr<Found> found = Find(run_, -1);
    if (!found.ok()) {
      console.err << "muster ckpt list: " << found.status().message() << "\n";
      return kExitFailure;
    }
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const int64_t step : found->steps) all.push_back(Describe(*found, step));
    if (json_) {
      console.out << all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
      return kExitDone;
    }
    for (const auto& facts : all) {
      const std::string name = facts["name"];
      if (facts.contains("damage")) {
        console.out << absl::StrFormat("%-14s damaged: %s\n", name,
                                       facts["damage"].get<std::string>());
        continue;
      }
      if (facts.contains("gone")) {
        console.out << absl::StrFormat("%-14s %s\n", name, kGone);
        continue;
      }
      console.out << absl::StrFormat("%-14s %12.1f MB  %4d shards  attempt %d  %s\n", name,
                                     static_cast<double>(facts["bytes"].get<int64_t>()) * 1e-6,
                                     facts["shards"].get<int>(), facts["attempt"].get<int>(),
                                     facts["mesh"].get<std::string>());
    }
    return kExitDone;
  }

 private:
  std::string run_;
  bool json_ = false;
};

class Verify : public Command {
 public:
  CommandText text() const override {
    return {"verify", "compares the hash of every byte of the checkpoints",
            "Names the file and the tensor of the first damage in each. Exit code 1 if there is\n"
            "any.",
            "muster ckpt verify runs/first"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("RUN", run_, "a run directory, or one checkpoint, .../step-<n>")->required();
    app.add_option("--step", step_, "only this one")->check(CLI::NonNegativeNumber)->type_name("N");
  }
  int Run(Console console) override {
    const absl::StatusOr<Found> found = Find(run_, step_);
    if (!found.ok()) {
      console.err << "muster ckpt verify: " << found.status().message() << "\n";
      return kExitFailure;
    }
    bool all_good = true;
    for (const int64_t step : found->steps) {
      all_good &= IsGood(runtime::CheckpointName(step), Watched(found->Path(step)), console);
    }
    return all_good ? kExitDone : kExitFailure;
  }

 private:
  // False: it is damaged. One that the run has taken away is not.
  static bool IsGood(const std::string& name, const Watched& checkpoint, Console& console) {
    const auto reader = CheckpointReader::Open(checkpoint.path());
    const absl::Status status = reader.ok() ? (*reader)->VerifyAll() : reader.status();
    if (status.ok()) {
      console.out << absl::StrFormat("%-14s good, %.1f MB\n", name,
                                     static_cast<double>((*reader)->manifest().bytes()) * 1e-6);
    } else if (checkpoint.IsGone()) {
      console.out << absl::StrFormat("%-14s %s\n", name, kGone);
    } else {
      console.err << name << " is damaged: " << status.message() << "\n";
      return false;
    }
    return true;
  }

  std::string run_;
  int64_t step_ = -1;
};

class Speed : public Command {
 public:
  CommandText text() const override {
    return {"speed", "how fast a directory's disk takes and gives checkpoints",
            "Writes and reads large blocks past the page cache, where the file system can, then a\n"
            "checkpoint of the same size; removes both.",
            "muster ckpt speed runs/first --mb 1024"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("DIR", directory_, "where: a run directory, or any other")->required();
    app.add_option("--mb", megabytes_, "how much, each time")
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N")
        ->capture_default_str();
  }
  int Run(Console console) override {
    const absl::StatusOr<runtime::StorageSpeed> speed =
        runtime::MeasureStorageSpeed(directory_, megabytes_ * 1000 * 1000);
    if (!speed.ok()) {
      console.err << "muster ckpt speed: " << speed.status().message() << "\n";
      return kExitFailure;
    }
    const auto line = [&](const char* what, double rate, double own) {
      console.out << absl::StrFormat("%-22s %9.0f MB/s", what, rate * 1e-6);
      if (own > 0) console.out << absl::StrFormat("  %5.1f %% of the disk's own", 100 * rate / own);
      console.out << "\n";
    };
    console.out << absl::StrFormat("%.0f MB in %s, one process%s\n",
                                   static_cast<double>(speed->bytes) * 1e-6, directory_,
                                   speed->direct ? "" : "; reads may come from memory");
    line("disk, write and sync", speed->disk_write, 0);
    line("checkpoint, save", speed->save, speed->disk_write);
    line("disk, read", speed->disk_read, 0);
    line("checkpoint, load", speed->load, speed->disk_read);
    return kExitDone;
  }

 private:
  std::string directory_;
  int64_t megabytes_ = 256;
};

class Ckpt : public Command {
 public:
  CommandText text() const override {
    return {"ckpt", "the checkpoints of a run, whether they are whole, how fast they go", "",
            "muster ckpt verify runs/first"};
  }
  std::vector<std::unique_ptr<Command>> Parts() override {
    std::vector<std::unique_ptr<Command>> parts;
    parts.push_back(std::make_unique<List>());
    parts.push_back(std::make_unique<Verify>());
    parts.push_back(std::make_unique<Speed>());
    return parts;
  }
  int Run(Console) override { return kExitUsage; }
};

}  // namespace

std::unique_ptr<Command> MakeCkpt() { return std::make_unique<Ckpt>(); }

}  // namespace muster::launch
