// The layout does not change the mathematics: a step on n ranks, with any division of the experts,
// gives the losses, loads and gradients of one rank that sees the whole batch.
#include <gtest/gtest.h>

#include "models/gpt.h"
#include "parallel/comm/collectives.h"
#include "tests/support/kernels/tolerance.h"
#include "tests/support/models/model_cases.h"
#include "tests/support/models/model_fixture.h"
#include "tests/support/mpi_main.h"

namespace muster::models {
namespace {

using kernels::TensorView;
using kernels::Values;
using parallel::ReduceOp;

class GptOnRanks : public ::testing::TestWithParam<ModelCase> {};
INSTANTIATE_TEST_SUITE_P(, GptOnRanks, ::testing::ValuesIn(ModelCases()),
                         [](const auto& info) { return std::string(info.param.name); });

// The elements of `whole` that lie in this rank's slice, row-major.
std::vector<double> ValuesOfSlice(const TensorView& whole, const parallel::LocalSlice& slice) {
  TensorView part = whole;
  for (int dim = 0; dim < whole.rank(); ++dim) {
    part = part.Slice(dim, slice.begin[dim], slice.begin[dim] + slice.size[dim]);
  }
  return Values(part);
}

void AddUp(const TensorView& tensor, parallel::Axis axis, const ModelFixture& fixture) {
  MUSTER_CHECK_OK(
      parallel::AllReduce(tensor, ReduceOp::kSum, fixture.mesh->Group(axis), fixture.compute()));
}

// Two steps, so that the second runs with the load and the bias that the first one left.
void TwoSteps(ModelFixture& fixture) {
  for (int step = 0; step < 2; ++step) {
    fixture.Step();
    const StepFacts& facts = fixture.model->facts();
    AddUp(facts.losses, parallel::Axis::kWorld, fixture);
    if (!facts.expert_load) continue;
    AddUp(facts.expert_load, parallel::Axis::kWorld, fixture);
    AddUp(facts.dropped, parallel::Axis::kWorld, fixture);
    if (step == 0) fixture.model->UpdateBalance(facts.expert_load, fixture.compute());
  }
  for (const parallel::Parameter& parameter : *fixture.parameters) {
    AddUp(parameter.gradient, parameter.placement.replica_axis, fixture);
  }
  fixture.Synchronize();
}

TEST_P(GptOnRanks, GiveTheResultsOfOneRank) {
  const int ranks = parallel::TestWorld().size();
  const ModelConfig config = GetParam().config();
  StageShape shape = {.sequences = 2,
                      .sequence_length = 6,
                      .num_microbatches = ranks,
                      .dtype = kernels::DType::kFloat64};
  ModelFixture alone(config, {.shape = shape});
  TwoSteps(alone);

  shape.num_microbatches = 1;
  for (int ep = 1; ep <= ranks; ++ep) {
    if (ranks % ep != 0 || (ep > 1 && !config.has_moe())) continue;
    SCOPED_TRACE("ep " + std::to_string(ep));
    ModelFixture fixture(
        config,
        {.shape = shape, .world = &parallel::TestWorld(), .degrees = {.dp = ranks, .ep = ep}});
    TwoSteps(fixture);
    const kernels::Tolerance tolerance = {1e-11, 1e-12};
    const StepFacts &facts = fixture.model->facts(), &expected = alone.model->facts();
    EXPECT_TRUE(kernels::IsClose(facts.losses, Values(expected.losses), tolerance));
    if (facts.expert_load) {
      EXPECT_EQ(Values(facts.expert_load), Values(expected.expert_load));
      EXPECT_EQ(Values(facts.dropped), Values(expected.dropped));
    }
    for (int id = 0; id < fixture.parameters->size(); ++id) {
      const parallel::Parameter& parameter = (*fixture.parameters)[id];
      EXPECT_TRUE(kernels::IsClose(parameter.gradient,
                                   ValuesOfSlice((*alone.parameters)[id].gradient, parameter.slice),
                                   tolerance))
          << parameter.global_name;
    }
  }
}

}  // namespace
}  // namespace muster::models
