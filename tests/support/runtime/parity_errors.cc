#include "tests/support/runtime/parity_errors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"

namespace muster::runtime {
namespace {

struct WholeGradient {
  std::vector<float> values;
  double norm = 0;
};

std::map<std::string, WholeGradient> WholeGradients(const TrainingRun& one) {
  std::map<std::string, WholeGradient> whole;
  for (const GradientPiece& piece : one.first_gradients) {
    std::vector<float>& values = whole[piece.global_name].values;
    const auto begin = static_cast<size_t>(piece.begin);
    values.resize(std::max(values.size(), begin + piece.values.size()));
    std::copy(piece.values.begin(), piece.values.end(), values.begin() + piece.begin);
  }
  for (auto& [name, gradient] : whole) {
    for (const float value : gradient.values) gradient.norm += double{value} * value;
    gradient.norm = std::sqrt(gradient.norm);
    MUSTER_CHECK(gradient.norm > 0) << name << " has no gradient";
  }
  return whole;
}

struct Compared {
  double square = 0;  // of the difference
  int64_t num_elements = 0;
};

// Of this rank's pieces, by tensor.
std::map<std::string, Compared> ComparePieces(const std::map<std::string, WholeGradient>& whole,
                                              const TrainingRun& many) {
  std::map<std::string, Compared> tensors;
  for (const GradientPiece& piece : many.first_gradients) {
    const WholeGradient& reference = whole.at(piece.global_name);
    Compared& compared = tensors[piece.global_name];
    for (size_t i = 0; i < piece.values.size(); ++i) {
      const double difference =
          piece.values[i] - reference.values.at(static_cast<size_t>(piece.begin) + i);
      compared.square += difference * difference;
    }
    compared.num_elements += static_cast<int64_t>(piece.values.size());
  }
  return tensors;
}

// Not a number is as far away as can be.
double RelativeError(double difference, double reference) {
  const double error = std::abs(difference) / std::abs(reference);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

// Squares and counts summed over the ranks: an element that several hold counts more, never less.
std::map<std::string, Compared> SumOverRanks(const std::map<std::string, Compared>& mine,
                                             parallel::World& world) {
  std::string text;
  for (const auto& [name, compared] : mine) {
    absl::StrAppend(&text, name, " ", compared.square, " ", compared.num_elements, "\n");
  }
  const auto all = world.GatherText(text);
  MUSTER_CHECK_OK(all.status());
  std::map<std::string, Compared> sum;
  for (const std::string& of_rank : *all) {
    for (const absl::string_view line : absl::StrSplit(of_rank, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> fields = absl::StrSplit(line, ' ');
      double square = 0;
      int64_t num_elements = 0;
      MUSTER_CHECK(fields.size() == 3 && absl::SimpleAtod(fields[1], &square) &&
                   absl::SimpleAtoi(fields[2], &num_elements))
          << line;
      sum[fields[0]].square += square;
      sum[fields[0]].num_elements += num_elements;
    }
  }
  return sum;
}

}  // namespace

ParityErrors CompareWithOneRank(const TrainingRun& one, const TrainingRun& many,
                                parallel::World& world) {
  MUSTER_CHECK(one.losses.size() == many.losses.size());
  MUSTER_CHECK_EQ(many.arena_bytes, many.planned.total_bytes());  // what `muster check` says
  for (const kernels::MatmulKey& key : many.matmuls) {            // what is chosen before step 1
    MUSTER_CHECK(many.planned_matmuls.contains(key)) << key.ToString() << " was not foreseen";
  }
  MUSTER_CHECK_EQ(many.matmuls.size(), many.planned_matmuls.size());
  ParityErrors errors;
  for (size_t step = 0; step < one.losses.size(); ++step) {  // equal on all ranks
    errors.loss = std::max(errors.loss,
                           RelativeError(many.losses[step] - one.losses[step], one.losses[step]));
  }
  errors.validation =
      RelativeError(many.validation_loss - one.validation_loss, one.validation_loss);
  const std::map<std::string, WholeGradient> whole = WholeGradients(one);
  std::map<std::string, Compared> compared = SumOverRanks(ComparePieces(whole, many), world);
  for (const auto& [name, reference] : whole) {
    const Compared& tensor = compared[name];
    MUSTER_CHECK(tensor.num_elements >= static_cast<int64_t>(reference.values.size()))
        << name << ": only " << tensor.num_elements << " of " << reference.values.size()
        << " elements of the gradient are anywhere";
    const double error = RelativeError(std::sqrt(tensor.square), reference.norm);
    if (error <= errors.gradient) continue;
    errors.gradient = error;
    errors.worst_gradient = name;
  }
  return errors;
}

void ExpectWithinTolerance(const ParityErrors& errors, const ParityTolerance& tolerance) {
  EXPECT_LE(errors.loss, tolerance.loss);
  EXPECT_LE(errors.validation, tolerance.loss);
  EXPECT_LE(errors.gradient, tolerance.gradient) << errors.worst_gradient;
}

ParityErrors ExpectEqualToOneRank(const TrainingRun& one, const TrainingRun& many,
                                  parallel::World& world, const ParityTolerance& tolerance) {
  const ParityErrors errors = CompareWithOneRank(one, many, world);
  EXPECT_LT(one.losses.back(), one.losses.front()) << "the model did not learn";
  ExpectWithinTolerance(errors, tolerance);
  return errors;
}

}  // namespace muster::runtime
