// Recording and launching of passes, with a stage of three weights in two buckets that adds numbers
// up, and hooks that write down what they hear.
#include "runtime/train/recorded_passes.h"

#include <gtest/gtest.h>

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace muster::runtime {
namespace {

using kernels::StreamView;
using kernels::TensorView;

// Hears of uses in the order in which they reach data parallelism; a gradient is written by a
// step's first contribution.
class Hooks : public parallel::ParameterHooks {
 public:
  void Use(int id, StreamView) override { Hear("use", id); }
  bool Contribute(int id, StreamView) override {
    Hear("contribute", id);
    return std::exchange(written_[static_cast<size_t>(id)], true);
  }
  void Ready(int id, StreamView) override { Hear("ready", id); }
  void BeginStep() { written_.fill(false); }
  void Hear(const std::string& what, int id) { heard_.push_back(absl::StrCat(what, " ", id)); }
  std::string TakeHeard() { return absl::StrJoin(std::exchange(heard_, {}), ", "); }

 private:
  std::vector<std::string> heard_;
  std::array<bool, 3> written_{};
};

// A forward uses weights 2, 1, 0 (buckets 1, 0, 0) and sums them up to `sum`; a backward writes or
// adds 1 to the gradients 0, 1, 2 and says that they are ready.
class Sums : public parallel::Stage {
 public:
  parallel::ParameterHooks* hooks = nullptr;
  double weights[3] = {1, 10, 100}, gradients[3] = {}, sum = 0;
  int calls = 0;

  absl::Status Forward(int, int microbatch, TensorView, TensorView, StreamView compute) override {
    ++calls;
    compute.Enqueue([this, microbatch] { sum += 1000 * microbatch; });
    for (int id = 2; id >= 0; --id) {
      hooks->Use(id, compute);
      compute.Enqueue([this, id] { sum += weights[id]; });
    }
    return absl::OkStatus();
  }
  absl::Status Backward(int, int, TensorView, TensorView, StreamView compute) override {
    ++calls;
    for (int id = 0; id < 3; ++id) {
      hooks->Use(id, compute);
      const bool adds = hooks->Contribute(id, compute);
      compute.Enqueue([this, id, adds] { gradients[id] = (adds ? gradients[id] : 0) + 1; });
      hooks->Ready(id, compute);
    }
    return failure;
  }
  absl::Status BackwardInput(int, int, TensorView, TensorView, StreamView) override {
    return Not();
  }
  absl::Status BackwardWeight(int, int, StreamView) override { return Not(); }
  absl::Status Evaluate(int, int, TensorView, TensorView, StreamView) override { return Not(); }
  static absl::Status Not() { return absl::UnimplementedError("not in these tests"); }
  absl::Status failure;
};

class RecordedPassesTest : public testing::Test {
 protected:
  RecordedPassesTest() : stream_(*kernels::Stream::Create({}, kernels::StreamMode::kInline, "x")) {
    layout_.buckets.resize(2);
    layout_.buckets[0].slices = {{0, 0, 1}, {1, 1, 1}};
    layout_.buckets[1].slices = {{2, 0, 1}};
    layout_.bucket_of = {0, 0, 1};
    layout_.parameter_names = {"a", "b", "c"};
    passes_ = std::make_unique<RecordedPasses>(
        sums_, hooks_, [this](StreamView) { hooks_.Hear("settle", 0); }, layout_);
    sums_.hooks = passes_.get();
  }
  absl::Status Step(int64_t valid_tokens = 8) {
    hooks_.BeginStep();
    passes_->BeginStep(valid_tokens);
    sums_.sum = 0;
    for (int m = 0; m < 2; ++m) {
      RETURN_IF_ERROR(passes_->Forward(0, m, {}, {}, stream_.view()));
      RETURN_IF_ERROR(passes_->Backward(0, m, {}, {}, stream_.view()));
    }
    return absl::OkStatus();
  }

  kernels::Stream stream_;
  parallel::BucketLayout layout_;
  Hooks hooks_;
  Sums sums_;
  std::unique_ptr<RecordedPasses> passes_;
};

TEST_F(RecordedPassesTest, EveryRunDoesTheWorkAndOnlyTwoCallTheStage) {
  for (int step = 1; step <= 4; ++step) {
    ASSERT_TRUE(Step().ok());
    EXPECT_EQ(sums_.sum, 2 * 111 + 1000) << "step " << step;
    for (const double gradient : sums_.gradients) EXPECT_EQ(gradient, 2) << "step " << step;
    EXPECT_EQ(sums_.calls, step == 1 ? 4 : 8) << "step " << step;
    EXPECT_EQ(passes_->num_launched(), 4 * std::max(0, step - 2));
  }
}

TEST_F(RecordedPassesTest, ALaunchReadsWhatWeightsAreThen) {
  for (int step = 1; step <= 4; ++step) {
    sums_.weights[0] = step;
    ASSERT_TRUE(Step().ok());
    EXPECT_EQ(sums_.sum, 2 * (110 + step) + 1000) << "step " << step;
  }
}

TEST_F(RecordedPassesTest, DataParallelismHearsUsesBeforeAPieceAndReadyAfterIt) {
  ASSERT_TRUE(Step().ok());
  const std::string plain =
      "use 2, use 1, use 0, "
      "use 0, contribute 0, ready 0, use 1, contribute 1, ready 1, use 2, contribute 2, ready 2";
  EXPECT_EQ(hooks_.TakeHeard(), plain + ", " + plain);
  ASSERT_TRUE(Step().ok());
  hooks_.TakeHeard();
  ASSERT_TRUE(Step().ok());
  // Bucket 0 is complete with the gradient of 1, bucket 1 with that of 2: two pieces.
  const std::string launched =
      "use 2, use 1, use 0, "
      "use 0, contribute 0, use 1, contribute 1, ready 0, ready 1, use 2, contribute 2, ready 2";
  EXPECT_EQ(hooks_.TakeHeard(), launched + ", " + launched);
}

TEST_F(RecordedPassesTest, WeightsAreSettledOnlyToRecord) {
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(hooks_.TakeHeard().find("settle"), std::string::npos);
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(hooks_.TakeHeard().find("settle"), 0u);
  ASSERT_TRUE(Step().ok());
  EXPECT_EQ(hooks_.TakeHeard().find("settle"), std::string::npos);
}

TEST_F(RecordedPassesTest, AnotherNumberOfValidTokensIsRecordedAnew) {
  for (int step = 0; step < 3; ++step) ASSERT_TRUE(Step().ok());
  const int calls = sums_.calls;
  ASSERT_TRUE(Step(/*valid_tokens=*/7).ok());
  EXPECT_EQ(sums_.calls, calls + 4);
  ASSERT_TRUE(Step(/*valid_tokens=*/7).ok());
  EXPECT_EQ(sums_.calls, calls + 4);
}

TEST_F(RecordedPassesTest, AFailureToRecordIsReturnedAndLeavesNoRecording) {
  ASSERT_TRUE(Step().ok());
  sums_.failure = absl::InternalError("out of order");
  const absl::Status status = Step();
  EXPECT_NE(status.message().find("recording a pass (schedule.graphs): out of order"),
            std::string::npos)
      << status;
  EXPECT_FALSE(stream_.view().records());
  sums_.failure = absl::OkStatus();
  for (int step = 0; step < 2; ++step) {
    ASSERT_TRUE(Step().ok());
    for (const double gradient : sums_.gradients) EXPECT_EQ(gradient, 2);
  }
}

}  // namespace
}  // namespace muster::runtime
