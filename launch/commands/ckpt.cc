#include "launch/commands/ckpt.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "launch/exit_codes.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/storage_speed.h"

namespace muster::launch {
namespace {

using runtime::CheckpointReader;

std::string DirectoryOf(const std::string& run) { return run + "/checkpoints"; }

// The committed checkpoints, newest first. Errors: there is none.
absl::StatusOr<std::vector<int64_t>> StepsOf(const std::string& run) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, runtime::ListCheckpoints(DirectoryOf(run)));
  if (steps.empty()) {
    return absl::NotFoundError("wanted step-<n> in " + DirectoryOf(run) + ", found none");
  }
  return steps;
}

// What the manifest says, or why it cannot be trusted.
nlohmann::ordered_json Describe(const std::string& run, int64_t step) {
  const std::string name = runtime::CheckpointName(step);
  nlohmann::ordered_json facts = {{"name", name}, {"step", step}};
  const auto reader = CheckpointReader::Open(DirectoryOf(run) + "/" + name);
  if (!reader.ok()) {
    facts["damage"] = reader.status().message();
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
    app.add_option("RUN", run_, "a run directory")->required();
    app.add_flag("--json", json_, "print a JSON array instead of text");
  }
  int Run(Console console) override {
    const absl::StatusOr<std::vector<int64_t>> steps = StepsOf(run_);
    if (!steps.ok()) {
      console.err << "muster ckpt list: " << steps.status().message() << "\n";
      return kExitFailure;
    }
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const int64_t step : *steps) all.push_back(Describe(run_, step));
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
    app.add_option("RUN", run_, "a run directory")->required();
    app.add_option("--step", step_, "only this one")->type_name("N");
  }
  int Run(Console console) override {
    absl::StatusOr<std::vector<int64_t>> steps = StepsOf(run_);
    if (steps.ok() && step_ >= 0) {
      const bool found = std::find(steps->begin(), steps->end(), step_) != steps->end();
      steps = found ? absl::StatusOr<std::vector<int64_t>>(std::vector<int64_t>{step_})
                    : absl::NotFoundError(absl::StrFormat("%s has no checkpoint of step %d",
                                                          DirectoryOf(run_), step_));
    }
    if (!steps.ok()) {
      console.err << "muster ckpt verify: " << steps.status().message() << "\n";
      return kExitFailure;
    }
    int code = kExitDone;
    for (const int64_t step : *steps) {
      const std::string name = runtime::CheckpointName(step);
      auto reader = CheckpointReader::Open(DirectoryOf(run_) + "/" + name);
      const absl::Status status = reader.ok() ? (*reader)->VerifyAll() : reader.status();
      if (status.ok()) {
        console.out << absl::StrFormat("%-14s good, %.1f MB\n", name,
                                       static_cast<double>((*reader)->manifest().bytes()) * 1e-6);
      } else {
        console.err << name << " is damaged: " << status.message() << "\n";
        code = kExitFailure;
      }
    }
    return code;
  }

 private:
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
