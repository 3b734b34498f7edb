#pragma once
// The work that a router gives to some ranks and not to others: rows on their way to experts, the
// experts, and rows on their way back. On the compute stream's Timeline it has a category of its
// own, behind those of parallel/comm/time_category.h: whoever looks for a slow rank must not take a
// popular expert for one. In every other respect it is compute.
#include <cstdint>
#include <vector>

#include "parallel/comm/time_category.h"

namespace muster::models {

constexpr int kUnevenWork = parallel::kNumTimeCategories;
constexpr int kNumTimelineCategories = kUnevenWork + 1;

// Moves a step's uneven work (the last of kNumTimelineCategories times) to kCompute; returns it.
inline int64_t FoldUnevenWork(std::vector<int64_t>* times) {
  const int64_t uneven = times->at(kUnevenWork);
  times->at(parallel::kCompute) += uneven;
  times->pop_back();
  return uneven;
}

}  // namespace muster::models
