#include "parallel/pp/schedule.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

template <typename Visit>
void ForEach(const Schedule& schedule, Visit visit) {
  for (size_t rank = 0; rank < schedule.size(); ++rank) {
    for (const Action& action : schedule[rank]) visit(static_cast<int>(rank), action);
  }
}

// The index in its list of the last action of each (stage, microbatch).
std::map<std::pair<int, int>, size_t> LastUses(const std::vector<Action>& actions) {
  std::map<std::pair<int, int>, size_t> last_use;
  for (size_t i = 0; i < actions.size(); ++i) {
    last_use[{actions[i].stage, actions[i].microbatch}] = i;
  }
  return last_use;
}

}  // namespace

std::string ToString(const Action& action) {
  constexpr char kLetters[] = {'F', 'B', 'I', 'W', 'E'};
  return absl::StrCat(std::string(1, kLetters[static_cast<int>(action.kind)]), action.stage, ".",
                      action.microbatch);
}

bool IsForward(const Action& action) {
  return action.kind == Kind::kForward || action.kind == Kind::kEvaluate;
}
bool IsInputGradient(const Action& action) {
  return action.kind == Kind::kBackward || action.kind == Kind::kBackwardInput;
}
bool IsWeightGradient(const Action& action) {
  return action.kind == Kind::kBackward || action.kind == Kind::kBackwardWeight;
}

int NumStages(const Schedule& schedule) {
  int most = -1;
  ForEach(schedule, [&](int, const Action& action) { most = std::max(most, action.stage); });
  return most + 1;
}

int NumMicrobatches(const Schedule& schedule) {
  int most = -1;
  ForEach(schedule, [&](int, const Action& action) { most = std::max(most, action.microbatch); });
  return most + 1;
}

bool SplitsBackward(const Schedule& schedule) {
  bool splits = false;
  ForEach(schedule, [&](int, const Action& action) {
    splits = splits || action.kind == Kind::kBackwardInput;
  });
  return splits;
}

std::vector<int> StageRanks(const Schedule& schedule) {
  std::vector<int> ranks(static_cast<size_t>(NumStages(schedule)), -1);
  ForEach(schedule,
          [&](int rank, const Action& action) { ranks[static_cast<size_t>(action.stage)] = rank; });
  return ranks;
}

Schedule OneForwardOneBackward(const PipelineShape& shape) {
  MUSTER_CHECK(shape.ranks >= 1 && shape.microbatches >= 1)
      << shape.ranks << " ranks, " << shape.microbatches << " microbatches";
  Schedule schedule(static_cast<size_t>(shape.ranks));
  for (int rank = 0; rank < shape.ranks; ++rank) {
    std::vector<Action>& actions = schedule[static_cast<size_t>(rank)];
    const int warm_up = std::min(shape.ranks - rank - 1, shape.microbatches);
    for (int i = 0; i < shape.microbatches + warm_up; ++i) {
      if (i < shape.microbatches) actions.push_back({Kind::kForward, rank, i});
      if (i >= warm_up) actions.push_back({Kind::kBackward, rank, i - warm_up});
    }
  }
  return schedule;
}

Schedule ForwardOnly(const Schedule& schedule, int microbatches) {
  Schedule forward(schedule.size());
  for (size_t rank = 0; rank < schedule.size(); ++rank) {
    for (const Action& action : schedule[rank]) {
      if (action.kind != Kind::kForward || action.microbatch >= microbatches) continue;
      forward[rank].push_back({Kind::kEvaluate, action.stage, action.microbatch});
    }
  }
  return forward;
}

Schedule OneAtATime(const Schedule& schedule) {
  const int num_stages = NumStages(schedule);
  // Where an action comes among those of its microbatch, over all ranks.
  const auto place = [&](const Action& action) {
    const int half = action.kind == Kind::kBackwardWeight ? 1 : 0;
    return IsForward(action) ? action.stage : num_stages + 2 * (num_stages - action.stage) + half;
  };
  Schedule sorted = schedule;
  for (std::vector<Action>& actions : sorted) {
    std::sort(actions.begin(), actions.end(), [&](const Action& a, const Action& b) {
      return std::pair(a.microbatch, place(a)) < std::pair(b.microbatch, place(b));
    });
  }
  return sorted;
}

std::vector<int> PeakMicrobatches(const Schedule& schedule) {
  std::vector<int> peaks;
  for (const std::vector<Action>& actions : schedule) {
    const auto last_use = LastUses(actions);
    int alive = 0, peak = 0;
    for (size_t i = 0; i < actions.size(); ++i) {
      if (IsForward(actions[i])) peak = std::max(peak, ++alive);
      if (last_use.at({actions[i].stage, actions[i].microbatch}) == i) --alive;
    }
    peaks.push_back(peak);
  }
  return peaks;
}

// By stage, the widest window from the oldest to the youngest microbatch that live at once: each
// from its first action that `begins` to its last action.
static std::vector<int> WidestWindows(const Schedule& schedule, bool (*begins)(const Action&)) {
  std::vector<int> widest(static_cast<size_t>(NumStages(schedule)), 1);
  for (const std::vector<Action>& actions : schedule) {
    const auto last_use = LastUses(actions);
    std::map<int, std::set<int>> alive;  // microbatches by stage
    for (size_t i = 0; i < actions.size(); ++i) {
      const auto [kind, stage, microbatch] = actions[i];
      std::set<int>& mine = alive[stage];
      if (begins(actions[i])) {
        mine.insert(microbatch);
        int& most = widest[static_cast<size_t>(stage)];
        most = std::max(most, *mine.rbegin() - *mine.begin() + 1);
      }
      if (last_use.at({stage, microbatch}) == i) mine.erase(microbatch);
    }
  }
  return widest;
}

std::vector<int> StageSlots(const Schedule& schedule) { return WidestWindows(schedule, IsForward); }

std::vector<int> StageGradientSlots(const Schedule& schedule) {
  return WidestWindows(schedule, IsInputGradient);
}

}  // namespace muster::parallel
