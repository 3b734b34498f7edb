#include "launch/commands/launch.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "launch/exit_codes.h"
#include "launch/help.h"
#include "launch/job_options.h"
#include "launch/rank_env.h"
#include "launch/reach.h"
#include "launch/supervisor.h"
#include "parallel/mesh/mesh.h"
#include "runtime/job/config.h"

namespace muster::launch {
namespace {

constexpr const char* kFillsWhatIsThere = "mesh.dp=0";  // override of a smaller world

std::string DefaultRunDirectory(const runtime::ResolvedJob& job) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &local);
  return absl::StrCat("runs/", job.job.name().empty() ? "run" : job.job.name(), "-", stamp);
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (file.good() || file.eof()) return text.str();
  return absl::NotFoundError(absl::StrCat("--hosts ", path, ": cannot be read"));
}

// A run is known by its config, which its first attempt writes last.
bool IsRun(const std::string& directory) {
  std::error_code error;
  return std::filesystem::exists(directory + "/config.textproto", error);
}

// Where this binary lies, also if it was found by the PATH. To be asked at the start: of a file
// that was replaced later, as by a new build, it would be a name that leads nowhere.
std::string OwnPath() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "muster" : path.string();
}

class Launch : public Command {
 public:
  CommandText text() const override {
    return {"launch", "train a job under a supervisor that restarts it",
            "Starts mpirun with muster train, watches every rank, and when one crashes or hangs, "
            "ends\nthe rest and goes on from the newest checkpoint. SIGTERM or Ctrl-C: save and "
            "stop, exit\ncode 75. The same command with the same --run goes on with that run, as "
            "every\nrestart does.",
            "muster launch configs/jobs/tiny-moe.textproto --ranks 4 --set mesh.ep=2 --set "
            "checkpoint.every_steps=10 --run runs/safe"};
  }
  void Declare(CLI::App& app) override {
    AddJobOptions(app, &options_);
    app.add_option("--ranks", ranks_, "world size (default: the smallest that the mesh fits)")
        ->type_name("N");
    app.add_option("--hosts", hosts_file_,
                   "a file with a host and its slots a line (default: this host alone)")
        ->type_name("FILE");
    app.add_option("--spares", spares_, "keep the last hosts of the file for those that fail")
        ->type_name("K");
    app.add_option("--min-ranks", min_ranks_,
                   "go on with fewer ranks, at least these, when hosts run out (default: never)")
        ->type_name("N");
    app.add_option("--max-restarts", max_restarts_,
                   "give up after so many from one checkpoint (default: 20)")
        ->type_name("N");
    app.add_flag("--replace-stragglers", replace_stragglers_,
                 "restart with a spare host for one that is slow");
    app.add_option("--step-times", step_times_,
                   "write each rank's own work in each step to this file, as CSV")
        ->type_name("FILE");
    app.add_option("--interface", interface_,
                   "address that ranks reach this host by (default: 127.0.0.1)")
        ->type_name("ADDRESS");
    app.add_option("--run", run_, "the run directory (default: runs/<name>-<time>)")
        ->type_name("DIR");
    AddResumeOption(app, &resume_);
  }

  int Run(Console console) override {
    runtime::ResolvedJob job;
    std::vector<runtime::ConfigProblem> problems;
    if (!runtime::LoadJob(options_.config, options_.overrides, ranks_, &job, &problems)) {
      console.err << runtime::Describe(problems, options_.config) << "\n";
      return kExitUsage;
    }
    absl::StatusOr<SupervisorOptions> options = OptionsOf(job);
    if (!options.ok()) {
      console.err << "muster launch: " << options.status().message() << "\n";
      return kExitUsage;
    }
    if (geteuid() == 0) {
      console.err << "muster launch: this is root: mpirun is told to run all the same "
                     "(--allow-run-as-root), and ranks have root's rights; on a host that others "
                     "use, too, start it as a user\n";
    }
    MpirunStart mpirun;
    const auto supervisor = Supervisor::Create(*std::move(options), mpirun, console.err);
    if (!supervisor.ok()) {
      console.err << "muster launch: " << supervisor.status().message() << "\n";
      return ExitCodeOfStart(supervisor.status());
    }
    return (*supervisor)->Run();
  }

 private:
  absl::StatusOr<SupervisorOptions> OptionsOf(const runtime::ResolvedJob& job) {
    if (ranks_ < 0 || max_restarts_ < 0 || spares_ < 0 || min_ranks_ < 0) {
      return absl::InvalidArgumentError(
          "--ranks, --spares, --min-ranks and --max-restarts: wanted numbers >= 0");
    }
    const int num_ranks = job.mesh.world_size();
    SupervisorOptions options;
    options.num_ranks = num_ranks;
    options.run_directory =
        std::filesystem::absolute(run_.empty() ? DefaultRunDirectory(job) : run_).string();
    run_ = options.run_directory;
    if (resume_ != "auto" && IsRun(run_)) {
      return absl::AlreadyExistsError(
          absl::StrCat(run_,
                       " holds a run already; continue it with --resume auto, choose another "
                       "--run directory, or remove this one"));
    }
    options.command = [this, num_ranks](int ranks) { return RankCommand(ranks < num_ranks); };
    options.stages = [this, num_ranks](int ranks) { return StagesOf(ranks, ranks < num_ranks); };
    options.smaller = [this](int most_ranks) { return LargestWorld(most_ranks); };
    options.interface = interface_;
    options.step_times = step_times_;
    if (!hosts_file_.empty()) {
      ASSIGN_OR_RETURN(const std::string text, ReadWhole(hosts_file_));
      absl::StatusOr<std::vector<HostSlots>> hosts = ParseHosts(text);
      if (!hosts.ok()) return kernels::Annotate(hosts.status(), "--hosts " + hosts_file_);
      RETURN_IF_ERROR(kernels::Annotate(CheckReach(*hosts, interface_), "--hosts " + hosts_file_));
      ASSIGN_OR_RETURN(options.hosts, HostPool::Make(*std::move(hosts), spares_, num_ranks));
    } else if (spares_ > 0) {
      return absl::InvalidArgumentError("--spares wants --hosts: a spare is a host");
    } else if (min_ranks_ > 0) {
      return absl::InvalidArgumentError("--min-ranks wants --hosts: ranks go with their host");
    }
    options.recovery.max_restarts = max_restarts_;
    options.recovery.replace_stragglers = replace_stragglers_;
    options.detector.deadlines = runtime::DeadlinesOf(job.job.communication());
    // Ranks look at the request behind a step, and an evaluation that follows it, and then save.
    options.stop_grace_seconds +=
        options.detector.deadlines.save_seconds + options.detector.deadlines.evaluate_seconds;
    ASSIGN_OR_RETURN(const RankEnv env, ReadRankEnv(CurrentEnvironment()));
    options.begin = {.config_hash = job.hash, .scheduler = env.scheduler, .build = VersionText()};
    return options;
  }

  std::vector<std::string> RankCommand(bool smaller) const {
    std::vector<std::string> command = {own_path_, "train", options_.config};
    for (const std::string& override_text : options_.overrides) {
      command.insert(command.end(), {"--set", override_text});
    }
    if (smaller) command.insert(command.end(), {"--set", kFillsWhatIsThere});
    // Once the run is there, every start goes on with it.
    command.insert(command.end(), {"--run", run_, "--resume", IsRun(run_) ? "auto" : resume_});
    return command;
  }

  // The largest world of at most so many ranks that is allowed and on which the job is legal.
  int LargestWorld(int most_ranks) const {
    if (min_ranks_ == 0) return 0;
    for (int fewer = most_ranks; fewer >= min_ranks_; --fewer) {
      runtime::ResolvedJob job;
      if (LoadWorld(fewer, /*smaller=*/true, &job)) return fewer;
    }
    return 0;
  }

  std::vector<int> StagesOf(int ranks, bool smaller) const {
    runtime::ResolvedJob job;
    std::vector<int> stages;
    if (!LoadWorld(ranks, smaller, &job)) return stages;  // its ranks will say what is wrong
    for (int rank = 0; rank < ranks; ++rank) {
      stages.push_back(parallel::CoordinatesOf(rank, job.mesh).pp);
    }
    return stages;
  }

  bool LoadWorld(int ranks, bool smaller, runtime::ResolvedJob* job) const {
    std::vector<std::string> overrides = options_.overrides;
    if (smaller) overrides.push_back(kFillsWhatIsThere);
    std::vector<runtime::ConfigProblem> problems;
    return runtime::LoadJob(options_.config, overrides, ranks, job, &problems);
  }

  const std::string own_path_ = OwnPath();
  JobOptions options_;
  int ranks_ = 0, spares_ = 0, min_ranks_ = 0, max_restarts_ = 20;
  bool replace_stragglers_ = false;
  std::string hosts_file_, step_times_, interface_ = "127.0.0.1", run_, resume_ = "auto";
};

}  // namespace

std::unique_ptr<Command> MakeLaunch() { return std::make_unique<Launch>(); }

}  // namespace muster::launch
