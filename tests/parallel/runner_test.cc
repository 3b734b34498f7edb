#include "parallel/pp/runner.h"

#include <gtest/gtest.h>

namespace muster::parallel {
namespace {

using kernels::StreamView;
using kernels::TensorView;
using Kind = Action::Kind;

// Writes down what it is asked, with the observer's announcements, and may fail at one call.
class RecordingStage : public Stage, public MicrobatchObserver {
 public:
  absl::Status Forward(int, int m, TensorView in, TensorView out, StreamView) override {
    EXPECT_FALSE(in);
    EXPECT_FALSE(out);
    return Note("F" + std::to_string(m));
  }
  absl::Status BackwardInput(int, int m, TensorView d_out, TensorView d_in, StreamView) override {
    EXPECT_FALSE(d_out);
    EXPECT_FALSE(d_in);
    return Note("I" + std::to_string(m));
  }
  absl::Status BackwardWeight(int, int m, StreamView) override {
    return Note("W" + std::to_string(m));
  }
  absl::Status Evaluate(int, int m, TensorView, TensorView, StreamView) override {
    return Note("E" + std::to_string(m));
  }
  absl::Status Backward(int, int m, TensorView d_out, TensorView d_in, StreamView) override {
    EXPECT_FALSE(d_out);
    EXPECT_FALSE(d_in);
    return Note("B" + std::to_string(m));
  }
  void BeforeBackward(int m, bool last) override {
    calls += (last ? "last" : "before") + std::to_string(m) + " ";
  }

  std::string calls, fail_at;

 private:
  absl::Status Note(const std::string& call) {
    calls += call + " ";
    return call == fail_at ? absl::ResourceExhaustedError("no memory") : absl::OkStatus();
  }
};

class PipelineRunner : public ::testing::Test {
 protected:
  PipelineRunner()
      : compute_(*kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute")) {}
  absl::Status Run(const std::vector<Action>& actions) {
    return RunSchedule(PlanRun({actions}, PlanChannels({actions}), 0), nullptr, stage_, stage_,
                       compute_.view());
  }
  kernels::Stream compute_;
  RecordingStage stage_;
};

TEST_F(PipelineRunner, RunsActionsInOrderAndAnnouncesTheLastBackward) {
  ASSERT_TRUE(Run(OneForwardOneBackward({.ranks = 1, .microbatches = 3})[0]).ok());
  EXPECT_EQ(stage_.calls, "F0 before0 B0 F1 before1 B1 F2 last2 B2 ");
}

TEST_F(PipelineRunner, OnlyWeightGradientsCountAsContributions) {
  ASSERT_TRUE(Run({{Kind::kForward, 0, 0},
                   {Kind::kForward, 0, 1},
                   {Kind::kBackwardInput, 0, 0},
                   {Kind::kBackwardWeight, 0, 0},
                   {Kind::kBackwardWeight, 0, 1},
                   {Kind::kBackwardInput, 0, 1}})
                  .ok());
  EXPECT_EQ(stage_.calls, "F0 F1 I0 before0 W0 last1 W1 I1 ");
}

TEST_F(PipelineRunner, StopsAtAnErrorAndNamesTheAction) {
  stage_.fail_at = "B1";
  const absl::Status status = Run(OneForwardOneBackward({.ranks = 1, .microbatches = 3})[0]);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "action B0.1 (4 of 6): no memory");
  EXPECT_EQ(stage_.calls, "F0 before0 B0 F1 before1 B1 ");
}

TEST_F(PipelineRunner, EvaluatesWithoutContributions) {
  const Schedule schedule = OneForwardOneBackward({.ranks = 1, .microbatches = 2});
  ASSERT_TRUE(Run(ForwardOnly(schedule, 2)[0]).ok());
  EXPECT_EQ(stage_.calls, "E0 E1 ");
}

TEST_F(PipelineRunner, FirstMicrobatchesCompleteTheGradients) {
  const Schedule schedule = {{{Kind::kForward, 0, 0},
                              {Kind::kBackward, 0, 0},
                              {Kind::kForward, 0, 1},
                              {Kind::kBackward, 0, 1},
                              {Kind::kForward, 0, 2},
                              {Kind::kBackward, 0, 2}}};
  const PipelineRun whole = PlanRun(schedule, PlanChannels(schedule), 0);
  const auto run = [&](int count) {
    stage_.calls.clear();
    EXPECT_TRUE(
        RunSchedule(FirstMicrobatches(whole, count), nullptr, stage_, stage_, compute_.view())
            .ok());
    return stage_.calls;
  };
  EXPECT_EQ(run(1), "F0 last0 B0 ");
  EXPECT_EQ(run(2), "F0 before0 B0 F1 last1 B1 ");
  EXPECT_EQ(run(3), run(9));
}

}  // namespace
}  // namespace muster::parallel
