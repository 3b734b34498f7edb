#pragma once
// What a step's time went to on every rank. Each rank's Timeline says how long its compute stream
// waited in each collective; of that, the shortest wait of all ranks is the price of the transfer,
// and what a rank waited longer is imbalance: it was there before the others.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/comm/time_category.h"
#include "runtime/job/config.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

struct StepBreakdown {
  using Times = std::array<int64_t, parallel::kNumTimeCategories>;
  int64_t end_ns = 0;  // when the times were collected here (CLOCK_MONOTONIC)
  Times mine_ns{};     // of this rank
  std::array<double, parallel::kNumTimeCategories> mean_ns{};  // over ranks
  std::vector<std::vector<std::string>> notes;                 // each note by rank
  // Mean seconds of a step that ends at `now_ns`: what came after end_ns is kOther.
  std::array<double, parallel::kNumTimeCategories> MeanSeconds(int64_t now_ns) const;
};

// Pure: `all` holds every rank's times, world x categories. Moves the part of each exposed wait
// that exceeds the least of all ranks to kImbalance; each rank's sum stays.
void SeparateImbalance(int world_size, std::vector<int64_t>* all);

// Gathers all ranks' times of a step, from host to host: a device is busy with the next one. Each
// rank's `notes`, what else it has to tell, come with them; all ranks have as many. Collective.
absl::StatusOr<StepBreakdown> ShareBreakdown(const std::vector<int64_t>& mine,
                                             const std::vector<std::string>& notes,
                                             parallel::World& world);

// Max / mean of the global expert load, by MoE layer. Read once the step has ended.
std::vector<double> ExpertImbalance(const TrainingState& state);
// Rows that this rank's experts worked on; 0 if dense. Read once the step has ended.
int64_t ExpertRows(const TrainingState& state);
// Choices that capacity dropped in the global batch: those the router made less those kept.
int64_t DroppedChoices(const ResolvedJob& job, int64_t tokens, const TrainingState& state);

}  // namespace muster::runtime
