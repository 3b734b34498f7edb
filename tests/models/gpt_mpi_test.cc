// The layout does not change the mathematics: a step on n ranks, with any division of heads,
// sequences and experts, gives the losses, loads and gradients of one rank that sees the whole batch.
#include <gtest/gtest.h>

#include <map>
#include <memory>

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

// The elements of `whole` that lie in this rank's slice, in its order.
std::vector<double> ValuesOfSlice(const TensorView& whole, const parallel::LocalSlice& slice) {
  std::vector<double> values;
  for (const parallel::Box& box : slice.boxes) {
    TensorView part = whole;
    for (int dim = 0; dim < whole.rank(); ++dim) {
      part = part.Slice(dim, box.begin[dim], box.begin[dim] + box.size[dim]);
    }
    const std::vector<double> more = Values(part);
    values.insert(values.end(), more.begin(), more.end());
  }
  return values;
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

struct Layout {
  parallel::MeshDegrees degrees;
  bool sequence_parallel = false, gather_context = false;
};

// All layouts of `ranks` ranks that are legal for the model.
std::vector<Layout> Layouts(const ModelConfig& config, int ranks) {
  std::vector<Layout> layouts;
  for (int tp = 1; tp <= ranks; ++tp) {
    for (int cp = 1; cp <= ranks / tp; ++cp) {
      for (int ep = 1; ranks % (tp * cp) == 0 && ep <= ranks; ++ep) {
        if (ranks % ep != 0) continue;
        const parallel::MeshDegrees degrees{.dp = ranks / (tp * cp), .tp = tp, .cp = cp, .ep = ep};
        std::vector<std::string> problems;
        CheckModelOnMesh(config, degrees, &problems);
        if (!problems.empty()) continue;
        layouts.push_back({degrees, tp > 1});
        if (tp > 1 && !config.has_moe()) layouts.push_back({degrees, false});
        if (cp > 1) layouts.push_back({degrees, tp > 1, /*gather_context=*/true});
      }
    }
  }
  return layouts;
}

TEST_P(GptOnRanks, GiveTheResultsOfOneRank) {
  const int ranks = parallel::TestWorld().size();
  const ModelConfig config = GetParam().config();
  // Lengths are multiples of 2 cp: 12 for cp up to 3, 8 for 4.
  std::map<int64_t, std::unique_ptr<ModelFixture>> references;
  for (const Layout& layout : Layouts(config, ranks)) {
    SCOPED_TRACE(layout.degrees.ToString() + (layout.sequence_parallel ? " with" : " without") +
                 " sequence parallelism" + (layout.gather_context ? ", keys gathered" : ""));
    const int64_t length = layout.degrees.cp == 4 ? 8 : 12;
    StageShape shape = {.sequences = 2,
                        .sequence_length = length,
                        .num_microbatches = ranks,
                        .dtype = kernels::DType::kFloat64};
    std::unique_ptr<ModelFixture>& reference = references[length];
    if (reference == nullptr) {
      reference = std::make_unique<ModelFixture>(config, FixtureOptions{.shape = shape});
      TwoSteps(*reference);
    }
    const ModelFixture& alone = *reference;
    shape.sequence_length = length / layout.degrees.cp;
    shape.num_microbatches = layout.degrees.tp * layout.degrees.cp;
    shape.stream_ranks = layout.sequence_parallel ? layout.degrees.tp : 1;
    shape.gather_context = layout.gather_context;
    ModelFixture fixture(
        config, {.shape = shape, .world = &parallel::TestWorld(), .degrees = layout.degrees});
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
