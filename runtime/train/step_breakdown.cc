#include "runtime/train/step_breakdown.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

constexpr int kCategories = parallel::kNumTimeCategories;
// Collectives, which all ranks of a group wait for. A stage that waits for another is no imbalance:
// kExposedPp differs by the place in the pipeline.
constexpr std::array kExposed = {parallel::kExposedDp, parallel::kExposedTp, parallel::kExposedCp,
                                 parallel::kExposedEp};

}  // namespace

std::array<double, kCategories> StepBreakdown::MeanSeconds(int64_t now_ns) const {
  std::array<double, kCategories> seconds{};
  for (size_t c = 0; c < seconds.size(); ++c) seconds[c] = mean_ns[c] * 1e-9;
  seconds[parallel::kOther] += static_cast<double>(now_ns - end_ns) * 1e-9;
  return seconds;
}

void SeparateImbalance(int world_size, std::vector<int64_t>* all) {
  const auto at = [&](int rank, int category) -> int64_t& {
    return (*all)[static_cast<size_t>(rank * kCategories + category)];
  };
  for (const int category : kExposed) {
    int64_t least = at(0, category);
    for (int rank = 1; rank < world_size; ++rank) least = std::min(least, at(rank, category));
    for (int rank = 0; rank < world_size; ++rank) {
      at(rank, parallel::kImbalance) += at(rank, category) - least;
      at(rank, category) = least;
    }
  }
}

absl::StatusOr<StepBreakdown> ShareBreakdown(const std::vector<int64_t>& mine,
                                             const std::vector<std::string>& notes,
                                             parallel::World& world) {
  MUSTER_CHECK_EQ(mine.size(), size_t{kCategories});
  StepBreakdown breakdown;
  breakdown.end_ns = kernels::MonotonicNs();
  const size_t bytes = mine.size() * sizeof(int64_t);
  std::string text(reinterpret_cast<const char*>(mine.data()), bytes);
  for (const std::string& note : notes) absl::StrAppend(&text, note.size(), ":", note);
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, world.GatherText(text));
  std::vector<int64_t> all(texts.size() * mine.size());
  breakdown.notes.resize(notes.size());
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    MUSTER_CHECK(texts[rank].size() >= bytes) << "times of rank " << rank;
    std::memcpy(all.data() + rank * mine.size(), texts[rank].data(), bytes);
    size_t begin = bytes;
    for (std::vector<std::string>& by_rank : breakdown.notes) {
      const size_t colon = texts[rank].find(':', begin);
      size_t size = 0;
      MUSTER_CHECK(colon != std::string::npos &&
                   absl::SimpleAtoi(texts[rank].substr(begin, colon - begin), &size))
          << "notes of rank " << rank;
      by_rank.push_back(texts[rank].substr(colon + 1, size));
      begin = colon + 1 + size;
    }
  }
  SeparateImbalance(world.size(), &all);
  for (int rank = 0; rank < world.size(); ++rank) {
    for (int c = 0; c < kCategories; ++c) {
      const int64_t ns = all[static_cast<size_t>(rank * kCategories + c)];
      breakdown.mean_ns[static_cast<size_t>(c)] += static_cast<double>(ns) / world.size();
      if (rank == world.rank()) breakdown.mine_ns[static_cast<size_t>(c)] = ns;
    }
  }
  return breakdown;
}

std::vector<double> ExpertImbalance(const TrainingState& state) {
  const kernels::TensorView& load = state.model->facts().expert_load;
  std::vector<double> ratios;
  if (!load) return ratios;
  const int64_t layers = load.shape[0], experts = load.shape[1];
  const auto* counts = static_cast<const int64_t*>(state.host_load.data());
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t* first = counts + layer * experts;
    const int64_t sum = std::accumulate(first, first + experts, int64_t{0});
    const int64_t most = *std::max_element(first, first + experts);
    ratios.push_back(sum == 0 ? 1.0
                              : static_cast<double>(most * experts) / static_cast<double>(sum));
  }
  return ratios;
}

int64_t ExpertRows(const TrainingState& state) {
  if (!state.model->facts().expert_rows) return 0;
  return *static_cast<const int64_t*>(state.host_rows.data());
}

int64_t DroppedChoices(const ResolvedJob& job, int64_t tokens, const TrainingState& state) {
  const kernels::TensorView& load = state.model->facts().expert_load;
  if (!load) return 0;
  const auto* counts = static_cast<const int64_t*>(state.host_load.data());
  const int64_t kept = std::accumulate(counts, counts + load.num_elements(), int64_t{0});
  return load.shape[0] * tokens * job.job.model().moe().top_k() - kept;
}

}  // namespace muster::runtime
