// Recomputation trades memory for time and nothing else: every result keeps its bits.
#include <gtest/gtest.h>

#include "tests/support/models/model_cases.h"
#include "tests/support/models/model_fixture.h"

namespace muster::models {
namespace {

using kernels::DType;
using kernels::Values;

struct RecomputeCase {
  const char* name;
  Recompute recompute;
};
const std::vector<RecomputeCase> kModules = {
    {"attention", {.attention = true}},
    {"feed-forward", {.mlp = true, .moe = true}},
    {"norm", {.norm = true}},
    {"all modules", {.attention = true, .mlp = true, .moe = true, .norm = true}},
    {"block", {.block = true}},
};

StageShape ShapeOf(const Recompute& recompute, bool split = false, DType dtype = DType::kFloat32) {
  return {.sequence_length = 10,
          .num_microbatches = 3,
          .num_slots = 3,
          .dtype = dtype,
          .split_backward = split,
          .recompute = recompute};
}

// Three microbatches alive at once, in another order backwards; with a split backward, inputs
// before any weights.
void Step(ModelFixture& fixture, bool split) {
  fixture.Begin();
  for (const int m : {0, 1, 2}) fixture.Forward(m);
  for (const int m : {1, 0, 2}) {
    if (split) {
      MUSTER_CHECK_OK(fixture.model->BackwardInput(0, m, {}, {}, fixture.compute()));
    } else {
      fixture.Backward(m);
    }
  }
  for (const int m : {1, 0, 2}) {
    if (split) MUSTER_CHECK_OK(fixture.model->BackwardWeight(0, m, fixture.compute()));
  }
  fixture.Synchronize();
}

void ExpectSameBits(const ModelFixture& found, const ModelFixture& wanted) {
  EXPECT_EQ(found.Losses(), wanted.Losses());
  for (int id = 0; id < wanted.parameters->size(); ++id) {
    EXPECT_EQ(Values((*found.parameters)[id].gradient), Values((*wanted.parameters)[id].gradient))
        << (*wanted.parameters)[id].global_name;
  }
  if (wanted.model->facts().expert_load) {
    EXPECT_EQ(Values(found.model->facts().expert_load), Values(wanted.model->facts().expert_load));
    EXPECT_EQ(Values(found.model->facts().dropped), Values(wanted.model->facts().dropped));
  }
}

class RecomputeTest : public ::testing::TestWithParam<ModelCase> {};
INSTANTIATE_TEST_SUITE_P(, RecomputeTest, ::testing::ValuesIn(ModelCases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(RecomputeTest, OfAnyModuleKeepsEveryBit) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    ModelFixture kept(GetParam().config(), {.shape = ShapeOf({}, false, dtype)});
    Step(kept, false);
    for (const RecomputeCase& module : kModules) {
      for (const bool split : {false, true}) {
        SCOPED_TRACE(std::string(module.name) + (split ? ", split backward" : ""));
        ModelFixture fixture(GetParam().config(),
                             {.shape = ShapeOf(module.recompute, split, dtype)});
        fixture.Poison();
        Step(fixture, split);
        ExpectSameBits(fixture, kept);
        fixture.Poison();  // nothing is left over from the step before
        Step(fixture, split);
        ExpectSameBits(fixture, kept);
      }
    }
  }
}

TEST_P(RecomputeTest, EvaluationKeepsItsBits) {
  ModelFixture kept(GetParam().config(), {.shape = ShapeOf({})});
  ModelFixture fixture(GetParam().config(), {.shape = ShapeOf({.block = true})});
  for (ModelFixture* model : {&kept, &fixture}) {
    model->Begin();
    for (const int m : {0, 1, 2})
      MUSTER_CHECK_OK(model->model->Evaluate(0, m, {}, {}, model->compute()));
    model->Synchronize();
  }
  EXPECT_EQ(fixture.Losses(), kept.Losses());
}

// Bytes of the plan's activations whose name holds `part`, of one slot.
int64_t Kept(const ModelFixture& fixture, const std::string& part) {
  int64_t bytes = 0;
  for (const kernels::ArenaPlan::Block& block : fixture.plan().blocks()) {
    if (block.lifetime != kernels::Lifetime::kActivation) continue;
    if (block.name.find(part) != std::string::npos) bytes += block.bound->bytes();
  }
  return bytes;
}

TEST_P(RecomputeTest, LeavesNoActivationOfItsModulesInTheSlots) {
  ModelFixture kept(GetParam().config(), {.shape = ShapeOf({})});
  for (const char* part : {".qkv", ".heads", ".lse", "_norm.y"}) EXPECT_GT(Kept(kept, part), 0);
  ModelFixture attention(GetParam().config(), {.shape = ShapeOf({.attention = true})});
  for (const char* part : {".qkv", ".heads", ".lse"}) EXPECT_EQ(Kept(attention, part), 0);
  ModelFixture feed_forward(GetParam().config(), {.shape = ShapeOf({.mlp = true, .moe = true})});
  for (const char* part : {".activated", ".rows, ", ".gate_up,"}) {
    EXPECT_EQ(Kept(feed_forward, part), 0) << part;
  }
  ModelFixture norm(GetParam().config(), {.shape = ShapeOf({.norm = true})});
  EXPECT_EQ(Kept(norm, "_norm.y"), 0);
  EXPECT_EQ(Kept(norm, "_norm.h"), Kept(kept, "_norm.h"));
}

// Of a recomputed block a slot keeps the input, its statistics and the routing. With many slots
// that is most of the activations saved.
TEST_P(RecomputeTest, OfBlocksKeepsOneStreamOfEachBlock) {
  ModelFixture kept(GetParam().config(), {.shape = ShapeOf({})});
  ModelFixture fixture(GetParam().config(), {.shape = ShapeOf({.block = true})});
  EXPECT_EQ(Kept(fixture, "attention_norm.h"), Kept(kept, "attention_norm.h"));
  EXPECT_EQ(Kept(fixture, "feed_forward_norm"), 0);
  const int64_t before = kept.plan().bytes(kernels::Lifetime::kActivation);
  EXPECT_LT(fixture.plan().bytes(kernels::Lifetime::kActivation), before / 2);
  EXPECT_LT(fixture.plan().total_bytes(), kept.plan().total_bytes());
}

}  // namespace
}  // namespace muster::models
