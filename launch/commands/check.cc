#include "launch/commands/check.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/hash.h"
#include "launch/exit_codes.h"
#include "launch/job_options.h"
#include "models/config.h"
#include "models/cost.h"
#include "runtime/job/config.h"
#include "runtime/job/pipeline.h"
#include "runtime/train/planned_memory.h"

namespace muster::launch {
namespace {

// 1234567 -> "1,234,567".
std::string Grouped(int64_t value) {
  std::string digits = absl::StrCat(value);
  for (int i = static_cast<int>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

// 1.5e9 -> "1.5 G", for a unit to follow.
std::string Scaled(double value) {
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  size_t i = 0;
  for (; value >= 1000 && i + 1 < std::size(kPrefixes); ++i) value /= 1000;
  return absl::StrFormat("%.3g %s", value, kPrefixes[i]);
}

std::string ModelLine(const models::ModelConfig& model) {
  std::string line =
      absl::StrFormat("%s%s%d layers, hidden %d, %d heads (%d of keys and values), vocabulary %s",
                      model.name(), model.name().empty() ? "" : ": ", model.layers(),
                      model.hidden(), model.heads(), model.kv_heads(), Grouped(model.vocab_size()));
  if (model.has_moe()) {
    absl::StrAppendFormat(&line, "; MoE in %d layers: %d experts, top %d, %d shared",
                          models::NumMoeLayers(model), model.moe().experts(), model.moe().top_k(),
                          model.moe().shared_experts());
  }
  return line;
}

std::string ParameterLine(const models::ModelConfig& model, const models::ModelCost& cost) {
  std::string line = Grouped(cost.parameters);
  if (model.has_moe()) {
    absl::StrAppend(&line, ", ", Grouped(cost.active_parameters), " of them active for a token, ",
                    Grouped(cost.expert_parameters), " in routed experts");
  }
  return absl::StrCat(line, "; ", Grouped(cost.embedding_parameters), " in embeddings");
}

// What the simulator says of the schedule, where all passes of a stage take as long.
std::string PipelineLine(const runtime::ResolvedJob& resolved) {
  std::vector<std::string> problems;  // a legal config has none
  const runtime::PipelinePlan plan =
      runtime::PlanPipeline(resolved.job, resolved.mesh.pp, &problems);
  std::string line = absl::StrFormat(
      "%s, %d stages of %s layers; with F = B = W a bubble of %.3g %% of the step; at most %s "
      "microbatches alive on each rank",
      runtime::ScheduleKind_Name(resolved.job.schedule().kind()), plan.layers.size(),
      absl::StrJoin(plan.layers, " "), 100 * plan.facts.MostBubble() / plan.facts.makespan,
      absl::StrJoin(plan.facts.peak_microbatches, " "));
  if (parallel::SplitsBackward(plan.schedule)) {
    std::vector<int> waiting(plan.schedule.size());
    for (size_t stage = 0; stage < plan.layers.size(); ++stage) {
      waiting[static_cast<size_t>(plan.facts.stage_ranks[stage])] +=
          plan.facts.stage_gradient_slots[stage];
    }
    absl::StrAppend(&line, ", ", absl::StrJoin(waiting, " "), " between the halves of a backward");
  }
  return line;
}

double Mebibytes(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// What the ranks of each pipeline stage will allocate, from their own memory plans.
std::string MemoryLine(const runtime::ResolvedJob& resolved) {
  std::vector<std::string> activations;
  runtime::PlannedMemory most;
  for (const int rank : parallel::GroupRanks(parallel::Axis::kPipeline, 0, resolved.mesh)) {
    const absl::StatusOr<runtime::PlannedMemory> planned = runtime::PlanMemory(resolved, rank);
    if (!planned.ok()) return absl::StrCat("cannot be planned: ", planned.status().message());
    activations.push_back(absl::StrFormat("%.4g", Mebibytes(planned->activation_bytes)));
    if (planned->total_bytes() > most.total_bytes()) most = *planned;
  }
  std::string line =
      absl::StrFormat("at most %.4g MiB a rank: %.4g held, %.4g of activations, %.4g of scratch",
                      Mebibytes(most.total_bytes()), Mebibytes(most.held_bytes),
                      Mebibytes(most.activation_bytes), Mebibytes(most.scratch_bytes));
  if (activations.size() > 1) {
    absl::StrAppend(&line, "; peak activations by pipeline rank: ", absl::StrJoin(activations, " "),
                    " MiB");
  }
  return line;
}

// What the tier in memory will take; an even share for each rank, before padding.
std::string MemoryTierLine(const runtime::ResolvedJob& resolved, const models::ModelCost& cost) {
  const runtime::Checkpoint& config = resolved.job.checkpoint();
  if (config.memory_every_steps() == 0) return "off";
  // A master or weight and two moments of each parameter.
  const double bytes_a_parameter = resolved.job.precision().compute() == runtime::fp64 ? 24 : 12;
  const double snapshot =
      bytes_a_parameter * static_cast<double>(cost.parameters) / resolved.mesh.world_size();
  return absl::StrFormat(
      "every %s in %s; a rank keeps 2 snapshots of %sB there, with more than one host 2 of a "
      "peer's "
      "too: %sB, or %sB; and %sB to copy from",
      config.memory_every_steps() == 1
          ? "step"
          : absl::StrCat(Grouped(config.memory_every_steps()), " steps"),
      config.memory_directory(), Scaled(snapshot), Scaled(2 * snapshot), Scaled(4 * snapshot),
      Scaled(snapshot));
}

std::string Summary(const runtime::ResolvedJob& resolved) {
  const runtime::Job& job = resolved.job;
  const models::ModelCost cost = models::CostOf(job.model(), resolved.sequence_length);
  const int64_t sequences = job.train().global_batch_sequences();
  const int64_t tokens = sequences * resolved.sequence_length;
  const std::pair<const char*, std::string> kLines[] = {
      {"mesh", absl::StrCat(resolved.mesh.ToString(), " on ", resolved.mesh.world_size(),
                            resolved.mesh.world_size() == 1 ? " rank" : " ranks")},
      {"model", ModelLine(job.model())},
      {"parameters", ParameterLine(job.model(), cost)},
      {"batch",
       absl::StrFormat("%s sequences of %s = %s tokens; each data-parallel rank takes %d "
                       "x %d sequences",
                       Grouped(sequences), Grouped(resolved.sequence_length), Grouped(tokens),
                       job.schedule().microbatches(), resolved.microbatch_sequences)},
      {"pipeline", PipelineLine(resolved)},
      {"memory", MemoryLine(resolved)},
      {"length", absl::StrFormat("%s steps = %s tokens", Grouped(job.train().steps()),
                                 Grouped(job.train().steps() * tokens))},
      {"FLOPs", absl::StrFormat("%sFLOP a token with causal attention (%sFLOP with full), "
                                "%sFLOP a step",
                                Scaled(cost.flops_per_token()), Scaled(cost.flops_per_token_full()),
                                Scaled(cost.flops_per_token() * static_cast<double>(tokens)))},
      {"memory tier", MemoryTierLine(resolved, cost)},
      {"hash", kernels::HexDigits(resolved.hash)},
  };
  std::string summary;
  for (const auto& [name, value] : kLines) {
    absl::StrAppendFormat(&summary, "  %-11s %s\n", name, value);
  }
  return summary;
}

class Check : public Command {
 public:
  CommandText text() const override {
    return {"check", "everything that is wrong with a config, at once and offline",
            "Prints what a legal config means. Needs no other rank and no GPU; exit code 2 if the\n"
            "config is not legal.",
            "muster check configs/jobs/tiny-moe.textproto --ranks 8 --set mesh.ep=4"};
  }
  void Declare(CLI::App& app) override {
    AddJobOptions(app, &options_);
    app.add_option("--ranks", ranks_, "world size (default: the smallest that the mesh fits)")
        ->type_name("N");
    app.add_flag("--print", print_, "print the resolved config, with all defaults, and only that");
  }
  int Run(Console console) override {
    if (ranks_ < 0) {
      console.err << "muster check: --ranks " << ranks_ << ": wanted a number >= 1\n";
      return kExitUsage;
    }
    runtime::ResolvedJob job;
    std::vector<runtime::ConfigProblem> problems;
    if (!runtime::LoadJob(options_.config, options_.overrides, ranks_, &job, &problems)) {
      console.err << runtime::Describe(problems, options_.config) << "\n";
      return kExitUsage;
    }
    if (print_) {
      console.out << job.text;
    } else {
      console.out << options_.config << ": no problems found\n" << Summary(job);
    }
    return kExitDone;
  }

 private:
  JobOptions options_;
  int ranks_ = 0;
  bool print_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeCheck() { return std::make_unique<Check>(); }

}  // namespace muster::launch
