// What must not change a model's results, and what its facts say.
#include "models/gpt.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/config.h"
#include "models/cost.h"
#include "tests/support/kernels/tolerance.h"
#include "tests/support/models/model_cases.h"
#include "tests/support/models/model_fixture.h"

namespace muster::models {
namespace {

using kernels::DType;
using kernels::IsClose;
using kernels::Tolerance;
using kernels::Values;

class GptTest : public ::testing::TestWithParam<ModelCase> {};
INSTANTIATE_TEST_SUITE_P(, GptTest, ::testing::ValuesIn(ModelCases()),
                         [](const auto& info) { return std::string(info.param.name); });

constexpr StageShape kTwoMicrobatches = {
    .sequences = 1, .sequence_length = 10, .num_microbatches = 2, .num_slots = 2};

// Every loss and every gradient within `tolerance`; bitwise if it is zero.
void ExpectSameResults(const ModelFixture& actual, const ModelFixture& expected,
                       Tolerance tolerance) {
  EXPECT_TRUE(IsClose(actual.model->facts().losses, expected.Losses(), tolerance));
  if (actual.model->facts().expert_load) {
    EXPECT_TRUE(IsClose(actual.model->facts().expert_load,
                        Values(expected.model->facts().expert_load), {0, 0}));
  }
  for (int id = 0; id < actual.parameters->size(); ++id) {
    const parallel::Parameter& parameter = (*actual.parameters)[id];
    EXPECT_TRUE(IsClose(parameter.gradient, Values((*expected.parameters)[id].gradient), tolerance))
        << parameter.global_name;
  }
}

TEST_P(GptTest, ParametersAgreeWithTheCostLedger) {
  ModelFixture fixture(GetParam().config(), {.shape = kTwoMicrobatches});
  int64_t parameters = 0, experts = 0;
  for (const parallel::Parameter& parameter : *fixture.parameters) {
    parameters += parameter.global_shape.num_elements();
    if (parameter.placement.replica_axis == parallel::Axis::kExpertData)
      experts += parameter.global_shape.num_elements();
  }
  const ModelCost cost = CostOf(GetParam().config(), 10);
  EXPECT_EQ(parameters, cost.parameters);
  EXPECT_EQ(experts, cost.expert_parameters);
}

TEST_P(GptTest, SplitBackwardIsBitwiseTheFusedOne) {
  ModelFixture fused(GetParam().config(), {.shape = kTwoMicrobatches});
  StageShape shape = kTwoMicrobatches;
  shape.split_backward = true;
  ModelFixture split(GetParam().config(), {.shape = shape});
  fused.Begin();
  split.Begin();
  for (const int m : {0, 1}) {
    fused.Forward(m);
    split.Forward(m);
  }
  for (const int m : {0, 1}) {
    fused.Backward(m);
    MUSTER_CHECK_OK(split.model->BackwardInput(0, m, {}, {}, split.compute()));
  }
  for (const int m : {0, 1}) MUSTER_CHECK_OK(split.model->BackwardWeight(0, m, split.compute()));
  ExpectSameResults(split, fused, {0, 0});
  EXPECT_EQ(split.hooks.order, fused.hooks.order);
}

TEST_P(GptTest, SplitBackwardIsRefusedWhereMemoryWasPlannedWithout) {
  ModelFixture fixture(GetParam().config(), {.shape = kTwoMicrobatches});
  fixture.Begin();
  fixture.Forward(0);
  EXPECT_EQ(fixture.model->BackwardInput(0, 0, {}, {}, fixture.compute()).code(),
            absl::StatusCode::kFailedPrecondition);
}

// Microbatches in any order of passes, one or two slots, give what one big microbatch gives.
TEST_P(GptTest, MicrobatchingDoesNotChangeResults) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    StageShape shape = kTwoMicrobatches;
    shape.dtype = dtype;
    ModelFixture two(GetParam().config(), {.shape = shape});
    shape.sequences = 2;
    shape.num_microbatches = shape.num_slots = 1;
    ModelFixture one(GetParam().config(), {.shape = shape});
    two.Step();
    one.Step();
    const Tolerance tolerance =
        dtype == DType::kFloat32 ? Tolerance{1e-6, 2e-6} : Tolerance{1e-12, 1e-13};
    ExpectSameResults(two, one, tolerance);
  }
}

TEST_P(GptTest, ReadsNothingThatItHasNotWritten) {
  for (const bool split : {false, true}) {
    StageShape shape = kTwoMicrobatches;
    shape.split_backward = split;
    ModelFixture fresh(GetParam().config(), {.shape = shape});
    ModelFixture poisoned(GetParam().config(), {.shape = shape});
    fresh.Step();
    poisoned.Step();  // The step before leaves nothing behind either.
    poisoned.Poison();
    poisoned.Step();
    ExpectSameResults(poisoned, fresh, {0, 0});
  }
}

TEST_P(GptTest, SlotsAreIndependent) {
  ModelFixture in_turn(GetParam().config(), {.shape = kTwoMicrobatches});
  in_turn.Step();
  ModelFixture together(GetParam().config(), {.shape = kTwoMicrobatches});
  together.Begin();
  together.Forward(0);
  together.Forward(1);
  together.Backward(0);
  together.Backward(1);
  // Only the output projection sees another order: its gradient is added in the forward.
  ExpectSameResults(together, in_turn, {1e-6, 1e-6});
}

TEST_P(GptTest, QueueStreamIsBitwiseTheInlineOne) {
  ModelFixture inline_stream(GetParam().config(), {.shape = kTwoMicrobatches});
  ModelFixture queue(GetParam().config(),
                     {.shape = kTwoMicrobatches, .mode = kernels::StreamMode::kQueue});
  for (int step = 0; step < 2; ++step) {
    inline_stream.Step();
    queue.Step();
  }
  ExpectSameResults(queue, inline_stream, {0, 0});
}

TEST_P(GptTest, ChunksOfTheVocabularyProjectionDoNotChangeResults) {
  StageShape shape = kTwoMicrobatches;
  shape.dtype = DType::kFloat64;
  ModelFixture whole(GetParam().config(), {.shape = shape});
  // Three tokens at a time: the last chunk of ten holds one. Rows start at multiples of 128 bytes.
  shape.logits_bytes = 3 * ((GetParam().config().vocab_size() + 15) / 16 * 16) * 8 + 7;
  ModelFixture chunked(GetParam().config(), {.shape = shape});
  whole.Step();
  chunked.Step();
  ExpectSameResults(chunked, whole, {1e-12, 1e-13});
}

TEST_P(GptTest, Bf16IsCloseToFp32) {
  StageShape shape = kTwoMicrobatches;
  ModelFixture fp32(GetParam().config(), {.shape = shape});
  shape.dtype = DType::kBFloat16;
  ModelFixture bf16(GetParam().config(), {.shape = shape});
  const double expected = fp32.Step();
  EXPECT_NEAR(bf16.Step(), expected, 0.02 * expected);
  for (int id = 0; id < fp32.parameters->size(); ++id) {
    const std::vector<double> a = Values((*fp32.parameters)[id].gradient);
    const std::vector<double> b = Values((*bf16.parameters)[id].gradient);
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      ab += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    // A choice near a tie may send a token to another expert.
    EXPECT_GT(ab / std::sqrt(aa * bb), GetParam().config().has_moe() ? 0.9 : 0.99)
        << (*fp32.parameters)[id].global_name;
  }
}

TEST_P(GptTest, EveryParameterIsUsedAndReadyOnceInBackwardOrder) {
  ModelFixture fixture(GetParam().config(), {.shape = {.sequence_length = 10}});
  fixture.Step();
  const int tied = GetParam().config().tied_embeddings() ? fixture.Find("embedding.weight") : -1;
  std::vector<parallel::ParameterId> backward_order;
  for (int id = fixture.parameters->size(); id-- > 0;) {
    EXPECT_GE(fixture.hooks.uses.at(static_cast<size_t>(id)), id == tied ? 2 : 1)
        << (*fixture.parameters)[id].global_name;
    backward_order.push_back(id);
  }
  EXPECT_EQ(fixture.hooks.order, backward_order);
}

TEST_P(GptTest, EvaluationIsTheCrossEntropyOfTraining) {
  ModelFixture fixture(GetParam().config(), {.shape = kTwoMicrobatches});
  fixture.Step();
  const double cross_entropy = fixture.Losses()[0];
  fixture.Begin();
  for (const int m : {0, 1})
    MUSTER_CHECK_OK(fixture.model->Evaluate(0, m, {}, {}, fixture.compute()));
  EXPECT_EQ(fixture.Losses(), (std::vector<double>{cross_entropy, 0, 0}));
  for (const parallel::Parameter& parameter : *fixture.parameters) {
    for (const double value : Values(parameter.gradient)) ASSERT_EQ(value, 0);
  }
}

TEST_P(GptTest, LogitsGiveTheCrossEntropy) {
  StageShape shape = {.sequence_length = 10, .dtype = DType::kFloat64};
  ModelFixture fixture(GetParam().config(), {.shape = shape});
  fixture.Begin();
  const auto logits = fixture.model->Logits(0, fixture.compute());
  MUSTER_CHECK_OK(logits.status());
  double sum = 0;
  for (int64_t t = 0; t < 10; ++t) {
    const double target = kernels::GetValue(fixture.microbatches[0].targets, t);
    if (target < 0) continue;
    double exponentials = 0;
    const int64_t V = logits->shape[1];
    for (int64_t v = 0; v < V; ++v) exponentials += std::exp(kernels::GetValue(*logits, t * V + v));
    sum +=
        std::log(exponentials) - kernels::GetValue(*logits, t * V + static_cast<int64_t>(target));
  }
  MUSTER_CHECK_OK(fixture.model->Evaluate(0, 0, {}, {}, fixture.compute()));
  EXPECT_NEAR(fixture.Losses()[0], sum / static_cast<double>(fixture.global_valid_tokens()), 1e-11);

  shape.logits_bytes = 100;
  ModelFixture narrow(GetParam().config(), {.shape = shape});
  narrow.Begin();
  EXPECT_EQ(narrow.model->Logits(0, narrow.compute()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_P(GptTest, EveryChoiceIsCountedOrDropped) {
  const ModelConfig config = GetParam().config();
  ModelFixture fixture(config, {.shape = kTwoMicrobatches});
  fixture.Step();
  const StepFacts& facts = fixture.model->facts();
  if (!config.has_moe()) {
    EXPECT_FALSE(facts.expert_load);
    EXPECT_FALSE(facts.dropped);
    return;
  }
  const int experts = config.moe().experts();
  ASSERT_EQ(facts.expert_load.shape, kernels::Shape({NumMoeLayers(config), experts}));
  const std::vector<double> load = Values(facts.expert_load), dropped = Values(facts.dropped);
  for (int layer = 0; layer < NumMoeLayers(config); ++layer) {
    double kept = 0;
    for (int e = 0; e < experts; ++e) kept += load[static_cast<size_t>(layer * experts + e)];
    const double drops = dropped[static_cast<size_t>(layer)];
    EXPECT_EQ(kept + drops, 2 * 10 * config.moe().top_k());
    // Ten tokens over twelve experts overflow places for ceil(1.25 * 10 / 12) = 2 each.
    EXPECT_EQ(drops > 0, config.moe().capacity_factor() > 0);
  }
}

// 1.2 x 10 tokens / 12 experts is one place, though 1.2 as a float is a little more than 1.2.
TEST(GptCapacity, RoundsUpWhatTheConfigSaysNotItsFloat) {
  ModelConfig config = ModelCases().back().config();
  ASSERT_TRUE(config.has_moe());
  config.mutable_moe()->set_capacity_factor(1.2f);
  ModelFixture fixture(config, {.shape = {.sequence_length = 10}});
  fixture.Step();
  double most = 0;
  for (const double load : Values(fixture.model->facts().expert_load)) most = std::max(most, load);
  EXPECT_EQ(most, 1);
}

TEST(GptBuffers, AreNamedByLayerAndFollowTheLoad) {
  for (const ModelCase& model : ModelCases()) {
    const ModelConfig config = model.config();
    ModelFixture fixture(config, {.shape = kTwoMicrobatches});
    const std::vector<Gpt::Buffer> buffers = fixture.model->Buffers();
    const std::string name = model.name;
    if (name == "MoeSigmoidShared") {
      ASSERT_EQ(buffers.size(), 2u);
      EXPECT_EQ(buffers[0].global_name, "layers.1.moe.balance_bias");
      EXPECT_EQ(buffers[1].global_name, "layers.2.moe.balance_bias");
    } else if (name == "MoeCapacity") {
      ASSERT_EQ(buffers.size(), 1u);
      EXPECT_EQ(buffers[0].global_name, "layers.1.moe.balance_load");
      EXPECT_TRUE(IsClose(buffers[0].tensor, std::vector<double>(12, 1.0 / 12)));
    } else {
      EXPECT_TRUE(buffers.empty());
    }
    fixture.Step();
    const kernels::TensorView counts = fixture.model->facts().expert_load;
    fixture.model->UpdateBalance(counts, fixture.compute());
    for (size_t layer = 0; layer < buffers.size(); ++layer) {
      double sum = 0;
      for (int64_t e = 0; e < 12; ++e)
        sum += kernels::GetValue(counts, static_cast<int64_t>(layer) * 12 + e);
      for (int64_t e = 0; e < 12; ++e) {
        const double count = kernels::GetValue(counts, static_cast<int64_t>(layer) * 12 + e);
        const double wanted = name == "MoeCapacity" ? count / sum
                              : 12 * count < sum    ? 0.05
                              : 12 * count > sum    ? -0.05
                                                    : 0;
        EXPECT_NEAR(kernels::GetValue(buffers[layer].tensor, e), wanted, 1e-7);
      }
    }
  }
}

}  // namespace
}  // namespace muster::models
