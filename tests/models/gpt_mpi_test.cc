// The layout does not change the mathematics: a step on n ranks, with any division of heads,
// sequences and experts, gives the losses, loads and gradients of one rank that sees the whole
// batch.
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
  int64_t sequences = 2;  // of a microbatch
  bool sequence_parallel = false, gather_context = false;
};

// Lengths are multiples of 2 cp: 12 for cp up to 3, 8 for 4.
int64_t LengthFor(const parallel::MeshDegrees& degrees) { return degrees.cp == 4 ? 8 : 12; }

// All layouts on a mesh that are legal for the model. One sequence in a microbatch is cut over the
// tensor ranks, two are dealt out where tp is 2.
void AddLayouts(const ModelConfig& config, const parallel::MeshDegrees& degrees,
                std::vector<Layout>* layouts) {
  std::vector<std::string> problems;
  CheckModelOnMesh(config, degrees, &problems);
  if (!problems.empty()) return;
  const bool cut = degrees.tp > 1;
  layouts->push_back({degrees, 2, cut});
  if (degrees.cp > 1 && degrees.etp == 1) layouts->push_back({degrees, 2, cut, true});
  if (!cut) return;
  layouts->push_back({degrees, 2, false});
  if (LengthFor(degrees) / degrees.cp % degrees.tp != 0) return;
  for (const bool sequence_parallel : {true, false}) {
    layouts->push_back({degrees, 1, sequence_parallel});
  }
}

std::vector<Layout> Layouts(const ModelConfig& config, int ranks) {
  std::vector<Layout> layouts;
  for (int tp = 1; tp <= ranks; ++tp) {
    for (int cp = 1; cp <= ranks / tp; ++cp) {
      if (ranks % (tp * cp) != 0) continue;
      for (int ep = 1; ep <= ranks; ++ep) {
        for (int etp = 1; etp <= ranks / ep; ++etp) {
          if (ranks % (ep * etp) != 0) continue;
          AddLayouts(config, {.dp = ranks / (tp * cp), .tp = tp, .cp = cp, .ep = ep, .etp = etp},
                     &layouts);
        }
      }
    }
  }
  return layouts;
}

TEST_P(GptOnRanks, GiveTheResultsOfOneRank) {
  const int ranks = parallel::TestWorld().size();
  const ModelConfig config = GetParam().config();
  std::map<int64_t, std::unique_ptr<ModelFixture>> references;  // by length
  for (const Layout& layout : Layouts(config, ranks)) {
    SCOPED_TRACE(layout.degrees.ToString() + (layout.sequence_parallel ? " with" : " without") +
                 " sequence parallelism, sequences " + std::to_string(layout.sequences) +
                 (layout.gather_context ? ", keys gathered" : ""));
    const int64_t length = LengthFor(layout.degrees);
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
    shape.sequences = layout.sequences;
    shape.num_microbatches =
        layout.degrees.tp * layout.degrees.cp * 2 / static_cast<int>(layout.sequences);
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
