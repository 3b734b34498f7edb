#include "parallel/pp/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "parallel/pp/schedules.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

// Time at which each pipeline rank ends its list, when a forward and a backward take one unit each
// and a hidden state travels in no time. -1 if the lists deadlock.
int Makespan(const Schedule& schedule) {
  const int ranks = static_cast<int>(schedule.size());
  std::map<std::tuple<Kind, int, int>, int> done_at;  // (kind, stage, microbatch)
  std::vector<size_t> next(schedule.size());
  std::vector<int> clock(schedule.size());
  bool progress = true;
  while (progress) {
    progress = false;
    for (size_t r = 0; r < schedule.size(); ++r) {
      if (next[r] == schedule[r].size()) continue;
      const Action& action = schedule[r][next[r]];
      std::vector<std::tuple<Kind, int, int>> needs;
      if (action.kind == Kind::kForward) {
        if (action.stage > 0)
          needs.push_back({Kind::kForward, action.stage - 1, action.microbatch});
      } else {
        needs.push_back({Kind::kForward, action.stage, action.microbatch});
        if (action.stage + 1 < ranks) {
          needs.push_back({Kind::kBackward, action.stage + 1, action.microbatch});
        }
      }
      int start = clock[r];
      bool can_run = true;
      for (const auto& need : needs) {
        const auto found = done_at.find(need);
        can_run = can_run && found != done_at.end();
        if (can_run) start = std::max(start, found->second);
      }
      if (!can_run) continue;
      clock[r] = start + 1;
      done_at[{action.kind, action.stage, action.microbatch}] = clock[r];
      ++next[r];
      progress = true;
    }
  }
  for (size_t r = 0; r < schedule.size(); ++r) {
    if (next[r] != schedule[r].size()) return -1;
  }
  return *std::max_element(clock.begin(), clock.end());
}

class OneForwardOneBackwardTest : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  const int ranks_ = std::get<0>(GetParam());
  const int microbatches_ = std::get<1>(GetParam());
  const Schedule schedule_ =
      OneForwardOneBackward({.ranks = ranks_, .microbatches = microbatches_});
};

TEST_P(OneForwardOneBackwardTest, RunsEveryMicrobatchOnceInOrder) {
  ASSERT_EQ(schedule_.size(), static_cast<size_t>(ranks_));
  for (int rank = 0; rank < ranks_; ++rank) {
    int next_forward = 0, next_backward = 0;
    for (const Action& action : schedule_[static_cast<size_t>(rank)]) {
      EXPECT_EQ(action.stage, rank);
      if (action.kind == Kind::kForward) {
        EXPECT_EQ(action.microbatch, next_forward++);
      } else {
        EXPECT_EQ(action.kind, Kind::kBackward);
        EXPECT_EQ(action.microbatch, next_backward++);
      }
      EXPECT_GE(next_forward, next_backward);
    }
    EXPECT_EQ(next_forward, microbatches_);
    EXPECT_EQ(next_backward, microbatches_);
  }
}

// The bubble is (p - 1) (F + B), here with F = B = 1.
TEST_P(OneForwardOneBackwardTest, BubbleIsTheFormulas) {
  EXPECT_EQ(Makespan(schedule_), 2 * microbatches_ + 2 * (ranks_ - 1));
}

TEST_P(OneForwardOneBackwardTest, KeepsAtMostTheRemainingStagesAlive) {
  const std::vector<int> peaks = PeakMicrobatches(schedule_);
  for (int rank = 0; rank < ranks_; ++rank) {
    EXPECT_EQ(peaks[static_cast<size_t>(rank)], std::min(microbatches_, ranks_ - rank));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, OneForwardOneBackwardTest,
                         ::testing::Combine(::testing::Range(1, 6), ::testing::Range(1, 10)));

TEST(OneForwardOneBackward, OfOneRankIsGradientAccumulation) {
  const Schedule schedule = OneForwardOneBackward({.ranks = 1, .microbatches = 2});
  const std::vector<Action> wanted = {{Kind::kForward, 0, 0},
                                      {Kind::kBackward, 0, 0},
                                      {Kind::kForward, 0, 1},
                                      {Kind::kBackward, 0, 1}};
  EXPECT_EQ(schedule[0], wanted);
}

// Which microbatches add to the gradients of each stage, in order.
std::map<int, std::vector<int>> Contributions(const Schedule& schedule) {
  std::map<int, std::vector<int>> by_stage;
  for (const auto& actions : schedule) {
    for (const Action& action : actions) {
      if (IsWeightGradient(action)) by_stage[action.stage].push_back(action.microbatch);
    }
  }
  return by_stage;
}

TEST(OneAtATime, AddsUpGradientsInTheOrderOfEverySchedule) {
  for (const auto make :
       {OneForwardOneBackward, Interleaved, ZeroBubbleH1, ZeroBubbleV, DualPipeV}) {
    for (const int ranks : {2, 4}) {
      const Schedule schedule =
          make({.ranks = ranks, .microbatches = 3 * ranks, .stages_per_rank = 2});
      const Schedule sorted = OneAtATime(schedule);
      EXPECT_EQ(Contributions(sorted), Contributions(schedule)) << ranks << " ranks";
      EXPECT_EQ(StageRanks(sorted), StageRanks(schedule));
      EXPECT_EQ(StageSlots(sorted), std::vector<int>(StageSlots(schedule).size(), 1));
    }
  }
}

TEST(OneAtATime, SendsAMicrobatchThroughAllStagesAndBack) {
  const Schedule sorted = OneAtATime(ZeroBubbleH1({.ranks = 2, .microbatches = 2}));
  const std::vector<Action> last = {{Kind::kForward, 1, 0},        {Kind::kBackwardInput, 1, 0},
                                    {Kind::kBackwardWeight, 1, 0}, {Kind::kForward, 1, 1},
                                    {Kind::kBackwardInput, 1, 1},  {Kind::kBackwardWeight, 1, 1}};
  EXPECT_EQ(sorted[1], last);
}

TEST(PeakMicrobatches, CountsUntilTheWeightGradient) {
  const Schedule schedule = {{{Kind::kForward, 0, 0},
                              {Kind::kBackwardInput, 0, 0},
                              {Kind::kForward, 0, 1},
                              {Kind::kBackwardInput, 0, 1},
                              {Kind::kForward, 0, 2},
                              {Kind::kBackwardWeight, 0, 0},
                              {Kind::kBackwardWeight, 0, 1},
                              {Kind::kBackward, 0, 2}}};
  EXPECT_EQ(PeakMicrobatches(schedule), std::vector<int>{3});
}

TEST(PeakMicrobatches, CountsEachStageOfARank) {
  const Schedule schedule = {{{Kind::kForward, 0, 0},
                              {Kind::kForward, 2, 0},
                              {Kind::kBackward, 2, 0},
                              {Kind::kBackward, 0, 0}},
                             {}};
  EXPECT_EQ(PeakMicrobatches(schedule), (std::vector<int>{2, 0}));
}

TEST(StageGradientSlots, CountFromTheInputToTheWeightGradient) {
  const Schedule schedule = {{{Kind::kForward, 0, 0},
                              {Kind::kForward, 0, 1},
                              {Kind::kForward, 0, 2},
                              {Kind::kBackwardInput, 0, 0},
                              {Kind::kBackwardInput, 0, 1},
                              {Kind::kBackwardWeight, 0, 0},
                              {Kind::kBackward, 0, 2},
                              {Kind::kBackwardWeight, 0, 1}}};
  EXPECT_EQ(StageSlots(schedule), std::vector<int>{3});
  EXPECT_EQ(StageGradientSlots(schedule), std::vector<int>{2});
  const PipelineShape shape = {.ranks = 4, .microbatches = 8};
  EXPECT_EQ(StageGradientSlots(ZeroBubbleH1(shape)), (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(StageGradientSlots(OneForwardOneBackward(shape)), (std::vector<int>{1, 1, 1, 1}));
}

TEST(Action, PrintsKindStageAndMicrobatch) {
  EXPECT_EQ(ToString({Kind::kForward, 0, 3}), "F0.3");
  EXPECT_EQ(ToString({Kind::kBackward, 1, 12}), "B1.12");
  EXPECT_EQ(ToString({Kind::kBackwardInput, 1, 0}), "I1.0");
  EXPECT_EQ(ToString({Kind::kBackwardWeight, 1, 0}), "W1.0");
}

}  // namespace
}  // namespace muster::parallel
