#include "parallel/pp/schedule.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::parallel {

std::string ToString(const Action& action) {
  const char* kind = "?";
  switch (action.kind) {
    case Action::Kind::kForward:
      kind = "F";
      break;
    case Action::Kind::kBackward:
      kind = "B";
      break;
    case Action::Kind::kBackwardInput:
      kind = "I";
      break;
    case Action::Kind::kBackwardWeight:
      kind = "W";
      break;
  }
  return absl::StrCat(kind, action.stage, ".", action.microbatch);
}

Schedule OneForwardOneBackward(const PipelineShape& shape) {
  MUSTER_CHECK(shape.ranks >= 1 && shape.microbatches >= 1)
      << shape.ranks << " ranks, " << shape.microbatches << " microbatches";
  Schedule schedule(static_cast<size_t>(shape.ranks));
  for (int rank = 0; rank < shape.ranks; ++rank) {
    std::vector<Action>& actions = schedule[static_cast<size_t>(rank)];
    const int warm_up = std::min(shape.ranks - rank - 1, shape.microbatches);
    for (int i = 0; i < shape.microbatches + warm_up; ++i) {
      if (i < shape.microbatches) actions.push_back({Action::Kind::kForward, rank, i});
      if (i >= warm_up) actions.push_back({Action::Kind::kBackward, rank, i - warm_up});
    }
  }
  return schedule;
}

std::vector<int> PeakMicrobatches(const Schedule& schedule) {
  std::vector<int> peaks;
  for (const std::vector<Action>& actions : schedule) {
    std::map<std::pair<int, int>, size_t> last_use;  // of (stage, microbatch)
    for (size_t i = 0; i < actions.size(); ++i) {
      last_use[{actions[i].stage, actions[i].microbatch}] = i;
    }
    int alive = 0, peak = 0;
    for (size_t i = 0; i < actions.size(); ++i) {
      const Action& action = actions[i];
      if (action.kind == Action::Kind::kForward) peak = std::max(peak, ++alive);
      if (last_use[{action.stage, action.microbatch}] == i) --alive;
    }
    peaks.push_back(peak);
  }
  return peaks;
}

}  // namespace muster::parallel
