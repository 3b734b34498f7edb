// Gradients of whole models in fp64 against finite differences.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/models/model_cases.h"
#include "tests/support/models/model_fixture.h"

namespace muster::models {
namespace {

using kernels::DType;
using kernels::GetValue;
using kernels::SetValue;
using kernels::TensorView;

class GptGradient : public ::testing::TestWithParam<ModelCase> {};
INSTANTIATE_TEST_SUITE_P(, GptGradient, ::testing::ValuesIn(ModelCases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Fourth-order central differences of a step's loss with respect to one weight.
double NumericGradient(ModelFixture& fixture, const TensorView& weight, int64_t index) {
  constexpr double kStep = 1e-4;
  const double value = GetValue(weight, index);
  const auto loss_at = [&](double offset) {
    SetValue(weight, index, value + offset);
    return fixture.Step();
  };
  const double near = loss_at(kStep) - loss_at(-kStep);
  const double far = loss_at(2 * kStep) - loss_at(-2 * kStep);
  SetValue(weight, index, value);
  return (8 * near - far) / (12 * kStep);
}

// Elements of a gradient to look at: the largest, and some drawn by chance.
std::vector<int64_t> Sample(const std::vector<double>& gradient, const std::string& name) {
  int64_t largest = 0;
  for (size_t i = 0; i < gradient.size(); ++i) {
    if (std::fabs(gradient[i]) > std::fabs(gradient[static_cast<size_t>(largest)])) {
      largest = static_cast<int64_t>(i);
    }
  }
  std::vector<int64_t> sample = {largest};
  const kernels::PhiloxKey key = kernels::MakePhiloxKey(7, name);
  for (uint64_t draw = 0; draw < 5; ++draw) {
    sample.push_back(static_cast<int64_t>(kernels::Philox(key, draw).v[0] % gradient.size()));
  }
  return sample;
}

TEST_P(GptGradient, OfEveryParameterMatchesFiniteDifferences) {
  ModelFixture fixture(GetParam().config(), {.shape = {.sequences = 2,
                                                       .sequence_length = 10,
                                                       .num_microbatches = 2,
                                                       .dtype = DType::kFloat64}});
  // A first step, so that the batch-level load and the balance bias are not the initial ones.
  fixture.Step();
  fixture.model->UpdateBalance(fixture.model->facts().expert_load, fixture.compute());
  const double loss = fixture.Step();
  EXPECT_GT(loss, 1.0);
  std::vector<std::vector<double>> gradients;
  for (const parallel::Parameter& parameter : *fixture.parameters) {
    gradients.push_back(kernels::Values(parameter.gradient));
  }
  for (int id = 0; id < fixture.parameters->size(); ++id) {
    const parallel::Parameter& parameter = (*fixture.parameters)[id];
    const std::vector<double>& gradient = gradients[static_cast<size_t>(id)];
    const std::vector<int64_t> sample = Sample(gradient, parameter.global_name);
    const double largest = std::fabs(gradient[static_cast<size_t>(sample[0])]);
    EXPECT_GT(largest, 1e-6) << parameter.global_name;
    for (const int64_t index : sample) {
      const double numeric = NumericGradient(fixture, parameter.weight, index);
      EXPECT_NEAR(gradient[static_cast<size_t>(index)], numeric, 2e-7 * largest)
          << parameter.global_name << " element " << index;
    }
  }
}

}  // namespace
}  // namespace muster::models
