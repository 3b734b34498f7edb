#include "runtime/job/pipeline.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/stage_balance.h"
#include "parallel/pp/schedule_file.h"
#include "parallel/pp/schedules.h"

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

// What a step of a schedule may have: its check and its tables are in memory at every start.
constexpr int64_t kMostPasses = 1 << 17;

// Refuses a schedule that is too long before it is made.
void CheckLength(const ScheduleConfig& config, int ranks, std::vector<std::string>* problems) {
  int64_t stages = ranks;
  if (config.kind() == interleaved_1f1b) stages *= config.virtual_stages();
  if (config.kind() == zb_v || config.kind() == dualpipev) stages *= 2;
  if (stages > kMostPasses) {
    problems->push_back(absl::StrCat("schedule.virtual_stages is ", config.virtual_stages(),
                                     ": with mesh.pp = ", ranks, " that makes ", stages,
                                     " stages; at most ", kMostPasses / ranks, " are planned for"));
  } else if (stages * config.microbatches() > kMostPasses) {
    problems->push_back(absl::StrCat("schedule.microbatches is ", config.microbatches(), ": on ",
                                     stages, " stages at most ", kMostPasses / stages,
                                     " are planned for"));
  }
}

// The lists of schedule.file.
parallel::Schedule ReadSchedule(const ScheduleConfig& config, int ranks,
                                std::vector<std::string>* problems) {
  constexpr uintmax_t kMostBytes = 1 << 24;  // lists as long as kMostPasses
  std::error_code ignored;
  const bool regular = std::filesystem::is_regular_file(config.file(), ignored);
  std::ifstream file(config.file());
  std::stringstream text;
  if (regular && std::filesystem::file_size(config.file(), ignored) <= kMostBytes) {
    text << file.rdbuf();
  }
  if (text.str().empty()) {
    problems->push_back(absl::StrCat("schedule.file is \"", config.file(),
                                     "\": schedule.kind from_file needs a file that can be read, "
                                     "of at most 16 MiB"));
    return {};
  }
  absl::StatusOr<parallel::Schedule> schedule = parallel::ParseSchedule(text.str(), config.file());
  if (!schedule.ok()) {
    problems->push_back(absl::StrCat("schedule.file: ", schedule.status().message()));
    return {};
  }
  const int found = static_cast<int>(schedule->size());
  if (found != ranks) {
    problems->push_back(
        absl::StrCat("schedule.file has lists for ", found, " ranks: mesh.pp is ", ranks));
  }
  const int microbatches = parallel::NumMicrobatches(*schedule);
  if (microbatches != config.microbatches()) {
    problems->push_back(absl::StrCat("schedule.file has ", microbatches,
                                     " microbatches: schedule.microbatches is ",
                                     config.microbatches()));
  }
  return *std::move(schedule);
}

// The schedule of the config's kind; empty where a rule is broken.
parallel::Schedule MakeSchedule(const ScheduleConfig& config, int ranks,
                                std::vector<std::string>* problems) {
  const int microbatches = config.microbatches();
  const parallel::PipelineShape shape = {
      .ranks = ranks, .microbatches = microbatches, .stages_per_rank = config.virtual_stages()};
  const auto needs = [&](const std::string& wanted) {
    problems->push_back(absl::StrCat("schedule.microbatches is ", microbatches, ": ",
                                     ScheduleKind_Name(config.kind()), " on mesh.pp = ", ranks,
                                     " ranks needs ", wanted));
    return parallel::Schedule();
  };
  if (config.has_file() && config.kind() != from_file) {
    problems->push_back(absl::StrCat("schedule.file is given, but schedule.kind is ",
                                     ScheduleKind_Name(config.kind()),
                                     ": set schedule.kind from_file, or remove the file"));
  }
  const bool v_shaped = config.kind() == zb_v || config.kind() == dualpipev;
  if (v_shaped && microbatches < 2 * ranks) return needs(absl::StrCat("at least ", 2 * ranks));
  switch (config.kind()) {
    case one_f_one_b:
      return parallel::OneForwardOneBackward(shape);
    case interleaved_1f1b:
      if (microbatches % ranks != 0) {
        const int nearest = std::max(1, (microbatches + ranks / 2) / ranks) * ranks;
        return needs(absl::StrCat("a multiple of them; the nearest is ", nearest));
      }
      return parallel::Interleaved(shape);
    case zb_h1:
      return parallel::ZeroBubbleH1(shape);
    case zb_v:
      return parallel::ZeroBubbleV(shape);
    case dualpipev:
      return parallel::DualPipeV(shape);
    case from_file:
      return ReadSchedule(config, ranks, problems);
  }
  return {};
}

}  // namespace

PipelinePlan PlanPipeline(const Job& job, int ranks, std::vector<std::string>* problems) {
  const size_t before = problems->size();
  PipelinePlan plan;
  const int microbatches = job.schedule().microbatches();
  // Other rules refuse these: no layers, no microbatches, more than sequences.
  if (job.model().layers() < 1 || microbatches < 1 ||
      microbatches > job.train().global_batch_sequences() || job.schedule().virtual_stages() < 1) {
    return plan;
  }
  CheckLength(job.schedule(), ranks, problems);
  if (problems->size() > before) return plan;
  plan.schedule = MakeSchedule(job.schedule(), ranks, problems);
  if (problems->size() > before) return plan;
  const int num_stages = parallel::NumStages(plan.schedule);
  CheckLayers(job, num_stages, problems);
  if (problems->size() > before) return plan;
  const auto& chosen = job.schedule().layers_per_stage();
  plan.layers = {chosen.begin(), chosen.end()};
  if (chosen.empty()) {
    plan.layers = models::LayersOfStages(job.model(), job.train().sequence_length(), num_stages);
  }
  absl::StatusOr<parallel::ScheduleFacts> facts = parallel::CheckSchedule(plan.schedule);
  if (facts.ok()) {
    plan.facts = *std::move(facts);
  } else {
    problems->push_back(
        absl::StrCat(job.schedule().kind() == from_file ? "schedule.file: " : "schedule.kind: ",
                     facts.status().message()));
  }
  return plan;
}

}  // namespace muster::runtime
