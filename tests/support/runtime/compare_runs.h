#pragma once
// Whether two training runs are the same run: within rounding, or to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/support/runtime/training_run.h"

namespace muster::runtime {

// `many`, of this rank, against the run of one rank: losses to 1e-5, gradient tensors to 1e-4.
inline void ExpectWithinRounding(const TrainingRun& many, const TrainingRun& one) {
  ASSERT_EQ(many.losses.size(), one.losses.size());
  for (size_t step = 0; step < one.losses.size(); ++step) {
    EXPECT_NEAR(many.losses[step], one.losses[step], 1e-5 * std::abs(one.losses[step]))
        << "step " << step + 1;
  }
  EXPECT_LT(one.losses.back(), one.losses.front()) << "the model did not learn";
  EXPECT_NEAR(many.validation_loss, one.validation_loss, 1e-5 * one.validation_loss);
  std::map<std::string, std::vector<float>> whole;  // from however many pieces, dense to the end
  for (const GradientPiece& piece : one.first_gradients) {
    std::vector<float>& values = whole[piece.global_name];
    values.resize(std::max(values.size(), static_cast<size_t>(piece.begin) + piece.values.size()));
    std::copy(piece.values.begin(), piece.values.end(), values.begin() + piece.begin);
  }
  ASSERT_FALSE(many.first_gradients.empty());
  for (const GradientPiece& piece : many.first_gradients) {
    const std::vector<float>& reference = whole.at(piece.global_name);
    double norm = 0, difference = 0;
    for (float value : reference) norm += static_cast<double>(value) * value;
    for (size_t i = 0; i < piece.values.size(); ++i) {
      const double d = piece.values[i] - reference.at(static_cast<size_t>(piece.begin) + i);
      difference += d * d;
    }
    EXPECT_GT(norm, 0) << piece.global_name << " has no gradient";
    EXPECT_LE(std::sqrt(difference), 1e-4 * std::sqrt(norm)) << piece.global_name;
  }
}

}  // namespace muster::runtime
