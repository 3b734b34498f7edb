#include "runtime/job/pipeline.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/stage_shape.h"

namespace muster::runtime {
namespace {

void CheckLayers(const Job& job, int num_stages, std::vector<std::string>* problems) {
  const int layers = job.model().layers();
  const auto& chosen = job.schedule().layers_per_stage();
  if (chosen.empty()) {
    if (layers >= num_stages || layers < 1) return;
    problems->push_back(
        absl::StrCat("mesh.pp makes ", num_stages, " stages of model.layers = ", layers,
                     ": each stage needs a layer; at most ", layers, " stages are legal"));
    return;
  }
  if (chosen.size() != num_stages) {
    problems->push_back(absl::StrCat("schedule.layers_per_stage has ", chosen.size(),
                                     " numbers: this pipeline has ", num_stages,
                                     " stages; give one for each, or none"));
  }
  for (int i = 0; i < chosen.size(); ++i) {
    if (chosen[i] >= 1) continue;
    problems->push_back(absl::StrCat("schedule.layers_per_stage gives stage ", i, " ", chosen[i],
                                     " layers: it must be at least 1"));
  }
  const int sum = std::accumulate(chosen.begin(), chosen.end(), 0);
  if (sum != layers) {
    problems->push_back(absl::StrCat("schedule.layers_per_stage sums to ", sum,
                                     ": it must sum to model.layers, ", layers));
  }
}

}  // namespace

PipelinePlan PlanPipeline(const Job& job, int ranks, std::vector<std::string>* problems) {
  const size_t before = problems->size();
  PipelinePlan plan;
  const int microbatches = job.schedule().microbatches();
  // More microbatches than sequences, or none, is what other rules refuse.
  if (microbatches < 1 || microbatches > job.train().global_batch_sequences()) return plan;
  plan.schedule = parallel::OneForwardOneBackward({.ranks = ranks, .microbatches = microbatches});
  absl::StatusOr<parallel::ScheduleFacts> facts = parallel::CheckSchedule(plan.schedule);
  if (!facts.ok()) {
    problems->push_back(absl::StrCat("schedule.kind: ", facts.status().message()));
    return plan;
  }
  plan.facts = *std::move(facts);
  const int num_stages = static_cast<int>(plan.facts.stage_ranks.size());
  CheckLayers(job, num_stages, problems);
  if (problems->size() == before) {
    const auto& chosen = job.schedule().layers_per_stage();
    plan.layers =
        models::LayersOfStages(job.model().layers(), num_stages, {chosen.begin(), chosen.end()});
  }
  return plan;
}

}  // namespace muster::runtime
