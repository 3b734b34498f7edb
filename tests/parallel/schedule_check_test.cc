#include "parallel/pp/schedule_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "kernels/base/error.h"
#include "parallel/pp/schedule_file.h"
#include "parallel/pp/schedules.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

ScheduleFacts Facts(const Schedule& schedule, const ActionTimes& times = {}) {
  auto facts = CheckSchedule(schedule, times);
  MUSTER_CHECK_OK(facts.status());
  return *facts;
}

// The closed forms of the bubble hold to the last bit: all times are whole numbers or halves.
class Bubble : public ::testing::TestWithParam<int> {
 protected:
  static constexpr int p = 4;
  const int m = GetParam();
  const PipelineShape shape_ = {.ranks = p, .microbatches = m};
};
INSTANTIATE_TEST_SUITE_P(Microbatches, Bubble, ::testing::Values(4, 8, 16));

const ActionTimes kTimes[] = {{1, 1, 1}, {2, 2, 1}, {1, 2, 1}, {2, 3, 2}};

TEST_P(Bubble, OfOneForwardOneBackwardIsTheClosedForm) {
  for (const ActionTimes& t : kTimes) {
    EXPECT_EQ(Facts(OneForwardOneBackward(shape_), t).MostBubble(),
              (p - 1) * (t.forward + t.backward_input + t.backward_weight));
  }
}

TEST_P(Bubble, OfInterleavedIsDividedByTheStagesOfARank) {
  for (const int v : {1, 2, 3, 4}) {
    for (const ActionTimes& t : kTimes) {
      // A rank's stages together take v times as long as one: the bubble is a v-th of 1F1B's.
      const double one_stage = v * (t.forward + t.backward_input + t.backward_weight);
      const Schedule schedule = Interleaved({.ranks = p, .microbatches = m, .stages_per_rank = v});
      EXPECT_EQ(Facts(schedule, t).MostBubble(), (p - 1) * one_stage / v);
    }
  }
}

TEST_P(Bubble, OfZeroBubbleH1IsTheClosedForm) {
  for (const ActionTimes& t : kTimes) {  // W <= F: else the weight gradients stand in the way
    EXPECT_EQ(Facts(ZeroBubbleH1(shape_), t).MostBubble(),
              (p - 1) * (t.forward + t.backward_input - t.backward_weight));
  }
}

TEST_P(Bubble, OfDualPipeVIsTheClosedForm) {
  if (m < 2 * p) GTEST_SKIP() << "wants two microbatches for each rank";
  for (ActionTimes t : kTimes) {
    const double all = t.forward + t.backward_input + t.backward_weight;
    for (const double overlapped : {all, all - 0.5}) {
      t.forward_and_backward = overlapped;
      // P = 2p stages: (P/2 - 1) ((F&B) + (B + W) - 3W).
      EXPECT_EQ(Facts(DualPipeV(shape_), t).MostBubble(),
                (p - 1) * (overlapped + t.backward_input - 2 * t.backward_weight));
    }
  }
}

TEST_P(Bubble, OfZeroBubbleVIsOnlyTheLateStart) {
  if (m < 2 * p) GTEST_SKIP() << "wants two microbatches for each rank";
  const Schedule schedule = ZeroBubbleV(shape_);
  const ScheduleFacts facts = Facts(schedule);
  EXPECT_EQ(facts.MostBubble(), p - 1);
  for (size_t rank = 0; rank < p; ++rank) {
    EXPECT_EQ(facts.starts[rank].front(), rank);
    EXPECT_EQ(facts.starts[rank].back() + 1 - facts.starts[rank].front(), facts.busy[rank])
        << "rank " << rank << " pauses between its first and its last action";
  }
}

TEST_P(Bubble, IsPaidForWithActivations) {
  // In stages: rank r of 1F1B keeps p - r; ZB-H1 keeps p on all; ZB-V's 2p are half as long.
  EXPECT_EQ(Facts(OneForwardOneBackward(shape_)).peak_microbatches, (std::vector<int>{4, 3, 2, 1}));
  EXPECT_EQ(Facts(ZeroBubbleH1(shape_)).peak_microbatches, (std::vector<int>{4, 4, 4, 4}));
  if (m < 2 * p) return;
  EXPECT_EQ(Facts(ZeroBubbleV(shape_)).peak_microbatches, (std::vector<int>{8, 8, 8, 8}));
  EXPECT_EQ(Facts(DualPipeV(shape_)).peak_microbatches, (std::vector<int>{9, 9, 9, 9}));
}

Schedule RandomKind(std::mt19937& random, std::string* name) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  PipelineShape shape = {.ranks = 1 + below(8), .microbatches = 1 + below(24)};
  const int kind = below(5);
  const char* kNames[] = {"1f1b", "interleaved", "zb_h1", "zb_v", "dualpipev"};
  if (kind == 1) {
    shape.microbatches = shape.ranks * (1 + below(4));
    shape.stages_per_rank = 1 + below(4);
  }
  if (kind >= 3) shape.microbatches = 2 * shape.ranks + below(12);
  *name = std::string(kNames[kind]) + " p" + std::to_string(shape.ranks) + " m" +
          std::to_string(shape.microbatches) + " v" + std::to_string(shape.stages_per_rank);
  switch (kind) {
    case 0:
      return OneForwardOneBackward(shape);
    case 1:
      return Interleaved(shape);
    case 2:
      return ZeroBubbleH1(shape);
    case 3:
      return ZeroBubbleV(shape);
    default:
      return DualPipeV(shape);
  }
}

// Two microbatches that live at once in a stage never share a slot, and the counts are exact.
void ExpectSlotsSuffice(const Schedule& schedule, const ScheduleFacts& facts) {
  for (const std::vector<Action>& actions : schedule) {
    std::map<std::pair<int, int>, size_t> last;
    for (size_t i = 0; i < actions.size(); ++i) {
      last[{actions[i].stage, actions[i].microbatch}] = i;
    }
    std::map<std::pair<int, int>, int> holder;  // of (stage, slot)
    for (size_t i = 0; i < actions.size(); ++i) {
      const auto [kind, stage, microbatch] = actions[i];
      const int slots = facts.stage_slots[static_cast<size_t>(stage)];
      const auto slot = std::pair(stage, microbatch % slots);
      if (kind == Kind::kForward) {
        EXPECT_EQ(holder.count(slot), 0u) << ToString(actions[i]) << " finds its slot taken";
        holder[slot] = microbatch;
      }
      EXPECT_EQ(holder.at(slot), microbatch);
      if (last.at({stage, microbatch}) == i) holder.erase(slot);
    }
  }
}

TEST(RandomSchedules, OfEveryKindRunInEveryTiming) {
  std::mt19937 random(20261122);
  for (int i = 0; i < 200; ++i) {
    std::string name;
    const Schedule schedule = RandomKind(random, &name);
    SCOPED_TRACE(name);
    ActionTimes times;
    for (double* time : {&times.forward, &times.backward_input, &times.backward_weight}) {
      *time = 1 + static_cast<double>(random() % 5);
    }
    times.transfer = static_cast<double>(random() % 3);
    const auto facts = CheckSchedule(schedule, times);
    ASSERT_TRUE(facts.ok()) << facts.status();
    ExpectSlotsSuffice(schedule, *facts);
    // The messages of a training step serve an evaluation, too.
    const auto evaluation = ForwardOnly(schedule, NumMicrobatches(schedule));
    EXPECT_TRUE(CheckBuffers(evaluation, *facts).ok()) << CheckBuffers(evaluation, *facts);
  }
}

// Lists cut out of one order of all actions that goes along with all dependencies can run,
// whatever that order is.
TEST(RandomSchedules, CutFromOnePossibleOrderRun) {
  std::mt19937 random(7);
  for (int i = 0; i < 100; ++i) {
    const int ranks = 1 + static_cast<int>(random() % 4);
    const int stages = ranks * (1 + static_cast<int>(random() % 3));
    const int microbatches = 1 + static_cast<int>(random() % 6);
    Schedule schedule(static_cast<size_t>(ranks));
    std::vector<int> home;
    for (int s = 0; s < stages; ++s) home.push_back(s % ranks);
    std::shuffle(home.begin(), home.end(), random);
    // What each microbatch does next: F0 .. F(S-1), I(S-1) .. I0, with W at any time after I.
    std::vector<int> next(static_cast<size_t>(microbatches));
    std::vector<Action> open, weights;
    for (;;) {
      open = weights;
      for (int m = 0; m < microbatches; ++m) {
        const int at = next[static_cast<size_t>(m)];
        if (at < stages) open.push_back({Kind::kForward, at, m});
        if (at >= stages && at < 2 * stages) {
          open.push_back({Kind::kBackwardInput, 2 * stages - 1 - at, m});
        }
      }
      if (open.empty()) break;
      const Action action = open[random() % open.size()];
      schedule[static_cast<size_t>(home[static_cast<size_t>(action.stage)])].push_back(action);
      if (action.kind == Kind::kBackwardWeight) {
        std::erase(weights, action);
      } else {
        ++next[static_cast<size_t>(action.microbatch)];
      }
      if (action.kind == Kind::kBackwardInput) {
        weights.push_back({Kind::kBackwardWeight, action.stage, action.microbatch});
      }
    }
    const auto facts = CheckSchedule(schedule);
    ASSERT_TRUE(facts.ok()) << facts.status() << "\n" << FormatSchedule(schedule);
    ExpectSlotsSuffice(schedule, *facts);
  }
}

std::string Refusal(const std::string& text) {
  const auto schedule = ParseSchedule(text, "test");
  MUSTER_CHECK_OK(schedule.status());
  const auto facts = CheckSchedule(*schedule);
  return facts.ok() ? "none" : std::string(facts.status().message());
}

TEST(CheckSchedule, NamesWhoWaitsForWhom) {
  // Rank 0 wants the gradient of microbatch 1 first, rank 1 makes that of 0 first and then waits.
  EXPECT_EQ(Refusal("0: F0.0 B0.0 F0.1 B0.1\n1: F1.1 B1.1 F1.0 B1.0"),
            "the lists deadlock: B0.0 (rank 0, action 2) waits for gradients 1>0 of microbatch 0; "
            "F1.1 (rank 1, action 1) waits for activations 0>1 of microbatch 1");
}

TEST(CheckSchedule, NamesWhatIsMissingDoubledOrOutOfOrder) {
  const std::pair<const char*, const char*> kCases[] = {
      {"0: F0.0\n1: F1.0 B1.0", "the backward of stage 0, microbatch 0 is missing"},
      {"0: B0.0\n1: F1.0 B1.0", "F0.0 is missing"},
      {"0: F0.0 I0.0\n1: F1.0 B1.0", "wanted B0.0, or I0.0 and W0.0"},
      {"0: F0.0 F0.0 B0.0\n1: F1.0 B1.0", "F0.0 (rank 0, action 2): it stands there twice"},
      {"0: B0.0 F0.0\n1: F1.0 B1.0", "the backward of F0.0 stands before it"},
      {"0: F0.0 W0.0 I0.0\n1: F1.0 B1.0", "W0.0 stands before I0.0"},
      {"0: F0.0 B0.0 I0.0 W0.0\n1: F1.0 B1.0", "keep one form"},
      {"0: F0.0 F1.0 B0.0\n1: B1.0", "stage 1 is on rank 0 already"},
  };
  for (const auto& [text, problem] : kCases) {
    EXPECT_NE(Refusal(text).find(problem), std::string::npos) << text << "\n" << Refusal(text);
  }
}

TEST(CheckSchedule, ListsTheFirstOfVeryManyProblems) {
  // 2^40 places are empty.
  const std::string refusal = Refusal("0: F0.1048575 F1048575.0");
  EXPECT_NE(refusal.find("F0.0 is missing"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("more like these"), std::string::npos) << refusal;
  EXPECT_LT(refusal.size(), 10'000u);
}

TEST(MakeProgram, FindsMessagesTakenAgainstTheirOrder) {
  const auto schedule = ParseSchedule(
      "0: F0.0 F0.1 F0.2 F0.3 B0.3 B0.0 B0.2 B0.1\n1: F1.3 B1.3 F1.0 B1.0 F1.2 B1.2 F1.1 B1.1", "");
  ASSERT_TRUE(schedule.ok()) << schedule.status();
  const std::vector<ChannelPlan> channels = PlanChannels(*schedule);
  for (const int rank : {0, 1}) {
    for (const ProgramStep& step : MakeProgram(*schedule, channels, rank)) {
      for (const MessageRef ref : {step.input, step.output}) {
        if (!ref) continue;
        const ChannelPlan& channel = channels[static_cast<size_t>(ref.channel)];
        EXPECT_EQ(channel.messages[static_cast<size_t>(ref.index)].microbatch,
                  step.action.microbatch)
            << ToString(step.action);
      }
    }
  }
}

TEST(CheckSchedule, BuffersLetNoMessageWait) {
  const ScheduleFacts facts = Facts(OneForwardOneBackward({.ranks = 3, .microbatches = 6}));
  ASSERT_EQ(facts.channels.size(), 4u);
  EXPECT_EQ(facts.channels[0].Name(), "activations 0>1");
  for (const int buffers : facts.buffers) EXPECT_EQ(buffers, 2);
  // A reader that takes messages against their order needs room for all that wait.
  const auto turned = ParseSchedule(
      "0: F0.0 F0.1 F0.2 F0.3 B0.3 B0.2 B0.1 B0.0\n1: F1.3 B1.3 F1.2 B1.2 F1.1 B1.1 F1.0 B1.0", "");
  EXPECT_EQ(Facts(*turned).buffers, (std::vector<int>{4, 2}));
}

TEST(DrawSchedule, HasAColumnForEachUnitOfTime) {
  const Schedule schedule = OneForwardOneBackward({.ranks = 2, .microbatches = 2});
  EXPECT_EQ(DrawSchedule(schedule, Facts(schedule), {}),
            "rank 0 | F0 F1 .  .  B0 -  .  B1 -\n"
            "rank 1 | .  F0 B0 -  F1 B1 -  .  .\n");
}

TEST(ScheduleFile, ReadsWhatItWrites) {
  for (const Schedule& schedule :
       {ZeroBubbleV({.ranks = 3, .microbatches = 7}),
        Interleaved({.ranks = 2, .microbatches = 4, .stages_per_rank = 3})}) {
    const auto read = ParseSchedule(FormatSchedule(schedule), "text");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, schedule);
  }
  const auto parts = ParseSchedule("# a comment\n\n0: F0.0 # one\n1: F1.0 B1.0\n0: B0.0\n", "text");
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(FormatSchedule(*parts), "0: F0.0 B0.0\n1: F1.0 B1.0\n");
}

TEST(ScheduleFile, ErrorsNameTheLine) {
  const std::pair<const char*, const char*> kCases[] = {
      {"0: F0.0\nF0.1\n", "s.txt:2: found \"F0.1\", wanted a pipeline rank and a colon"},
      {"0: F0.0 X0.1\n", "s.txt:1: found \"X0.1\", wanted F, B, I or W"},
      {"\n\n0: F0\n", "s.txt:3: found \"F0\""},
      {"0: F0.\n", "s.txt:1: found \"F0.\""},
      {"0: F.0\n", "s.txt:1: found \"F.0\""},
      {"0: F0.0x\n", "s.txt:1: found \"F0.0x\""},
      {"0: F-1.0\n", "s.txt:1: found \"F-1.0\""},
      {"0: F0.99999999999\n", "s.txt:1: found \"F0.99999999999\""},
      {"-1: F0.0\n", "s.txt:1: found \"-1:\""},
      {"# nothing\n", "s.txt: it holds no actions"},
      {"1: F0.0 B0.0\n", "s.txt: rank 0 has no list"},
  };
  for (const auto& [text, problem] : kCases) {
    const auto schedule = ParseSchedule(text, "s.txt");
    ASSERT_FALSE(schedule.ok()) << text;
    EXPECT_EQ(schedule.status().message().find(problem), 0u) << schedule.status();
  }
}

}  // namespace
}  // namespace muster::parallel
