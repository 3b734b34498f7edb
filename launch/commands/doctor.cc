#include "launch/commands/doctor.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "launch/exit_codes.h"
#include "launch/host_advice.h"
#include "launch/host_facts.h"

namespace muster::launch {
namespace {

nlohmann::ordered_json Json(const Space& space) {
  return {
      {"path", space.path}, {"total_bytes", space.total_bytes}, {"free_bytes", space.free_bytes}};
}

nlohmann::ordered_json Json(const HostFacts& facts, const std::vector<Finding>& findings) {
  nlohmann::ordered_json json = {{"host", facts.host},
                                 {"cpu_model", facts.cpu_model},
                                 {"instruction_sets", facts.instruction_sets},
                                 {"logical_cpus", facts.logical_cpus},
                                 {"usable_cpus", facts.usable_cpus},
                                 {"numa_nodes", facts.numa_nodes},
                                 {"memory_bytes", facts.memory_bytes},
                                 {"memory_limit_bytes", facts.memory_limit_bytes},
                                 {"mpi_library", facts.mpi_library},
                                 {"mpi_thread_level", facts.mpi_thread_level},
                                 {"mpirun", facts.mpirun_path},
                                 {"srun", facts.srun_path},
                                 {"sbatch", facts.sbatch_path},
                                 {"stack_tool", facts.stack_tool_path},
                                 {"nvcc", facts.nvcc_path},
                                 {"slurm_job_id", facts.slurm_job_id},
                                 {"built_with_cuda", facts.built_with_cuda},
                                 {"cudnn_version", facts.cudnn_version},
                                 {"cuda_devices", facts.cuda_devices},
                                 {"nvidia_driver", facts.nvidia_driver},
                                 {"shared_memory", Json(facts.shared_memory)},
                                 {"working_directory", Json(facts.working_directory)},
                                 {"open_files_limit", facts.open_files_limit},
                                 {"locked_memory_limit", facts.locked_memory_limit}};
  json["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"level", Name(finding.level)},
                                {"subject", finding.subject},
                                {"found", finding.found},
                                {"advice", finding.advice}});
  }
  return json;
}

class Doctor : public Command {
 public:
  CommandText text() const override {
    return {"doctor", "what this host has, what is missing, what to install",
            "Exit code 0: ranks can train here under mpirun; 1: something they need is missing.",
            "muster doctor --json"};
  }
  void Declare(CLI::App& app) override {
    app.add_flag("--json", json_, "print one JSON object instead of text");
  }
  int Run(Console console) override {
    const HostFacts facts = ReadHostFacts();
    const std::vector<Finding> findings = Assess(facts);
    int num_missing = 0;
    for (const Finding& finding : findings) {
      num_missing += finding.level == Finding::Level::kMissing ? 1 : 0;
    }
    if (json_) {
      // A host or path name need not be UTF-8; JSON must be.
      console.out
          << Json(facts, findings).dump(2, ' ', false, nlohmann::json::error_handler_t::replace)
          << "\n";
    } else {
      PrintText(facts, findings, num_missing, console.out);
    }
    return num_missing == 0 ? kExitDone : kExitFailure;
  }

 private:
  static void PrintText(const HostFacts& facts, const std::vector<Finding>& findings,
                        int num_missing, std::ostream& out) {
    out << "Host " << facts.host << "\n";
    for (const Finding& finding : findings) {
      out << absl::StrFormat("%-8s %-14s %s\n", Name(finding.level), finding.subject,
                             finding.found);
      if (!finding.advice.empty()) out << absl::StrFormat("%24s-> %s\n", "", finding.advice);
    }
    out << (num_missing == 0 ? "Ranks can train on this host.\n"
                             : absl::StrFormat("%d missing: see above.\n", num_missing));
  }
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeDoctor() { return std::make_unique<Doctor>(); }

}  // namespace muster::launch
