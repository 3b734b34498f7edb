#include "kernels/ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/naive_matmul.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A [rows, columns] matrix whose rows lie `gap` elements further apart than their length, in memory
// that starts as NaN: reading or writing between rows shows.
struct Matrix {
  Tensor memory;
  TensorView view;
};
Matrix MakeMatrix(DType dtype, int64_t rows, int64_t columns, int64_t gap,
                  const std::string& name) {
  Matrix matrix;
  matrix.memory = MakeTensor(dtype, {rows, columns + gap});
  for (int64_t i = 0; i < matrix.memory.view().num_elements(); ++i) {
    SetValue(matrix.memory.view(), i, kNan);
  }
  matrix.view = matrix.memory.view().Slice(1, 0, columns);
  FillRandom(matrix.view, name);
  return matrix;
}

// Number of elements that are not NaN: the gaps of an output must stay NaN.
int64_t CountNumbers(const Tensor& memory) {
  int64_t count = 0;
  for (double v : Values(memory.view())) count += !std::isnan(v);
  return count;
}

enum class Onto { kNothing, kAccumulate, kBias };

struct Types {
  DType operands, result;
};

class MatmulCase : public ::testing::TestWithParam<std::tuple<Types, bool, bool, Onto, int>> {
 protected:
  // Runs the op on [m, k] x [k, n] and compares with the reference.
  void Check(int64_t m, int64_t n, int64_t k) {
    SCOPED_TRACE("m " + std::to_string(m) + " n " + std::to_string(n) + " k " + std::to_string(k));
    const auto [types, a_transposed, b_transposed, onto, gap] = GetParam();
    const Matrix a = a_transposed ? MakeMatrix(types.operands, k, m, gap, "a")
                                  : MakeMatrix(types.operands, m, k, gap, "a");
    const Matrix b = b_transposed ? MakeMatrix(types.operands, n, k, gap, "b")
                                  : MakeMatrix(types.operands, k, n, gap, "b");
    const Matrix c = MakeMatrix(types.result, m, n, gap, "c");
    const Tensor bias = RandomTensor(types.result, {n}, "bias");
    std::vector<double> expected = NaiveMatmul(a_transposed ? Transposed(a.view) : a.view,
                                               b_transposed ? Transposed(b.view) : b.view);
    for (size_t i = 0; i < expected.size(); ++i) {
      const int64_t index = static_cast<int64_t>(i);
      if (onto == Onto::kAccumulate) expected[i] += GetValue(c.view, index);
      if (onto == Onto::kBias) expected[i] += GetValue(bias.view(), index % n);
    }
    if (onto != Onto::kAccumulate) {  // what is not accumulated on must not be read
      for (int64_t i = 0; i < c.view.num_elements(); ++i) SetValue(c.view, i, kNan);
    }
    cpu::Matmul({.a = a.view,
                 .b = b.view,
                 .c = c.view,
                 .bias = onto == Onto::kBias ? bias.view() : TensorView(),
                 .a_transposed = a_transposed,
                 .b_transposed = b_transposed,
                 .accumulate = onto == Onto::kAccumulate});
    EXPECT_TRUE(IsClose(c.view, expected));
    EXPECT_EQ(CountNumbers(c.memory), m * n) << "wrote between the rows";
  }
};

TEST_P(MatmulCase, EqualsReference) {
  Check(1, 1, 1);
  Check(5, 7, 3);
  Check(1, 33, 17);
  Check(33, 1, 65);
  Check(48, 70, 129);
}

TEST_P(MatmulCase, EmptySidesAreLegal) {
  Check(0, 5, 4);
  Check(5, 0, 4);
  Check(5, 4, 0);  // an empty sum: zero, the bias, or what was there
  Check(0, 0, 0);
}

std::string CaseName(
    const ::testing::TestParamInfo<std::tuple<Types, bool, bool, Onto, int>>& info) {
  const auto [types, a_transposed, b_transposed, onto, gap] = info.param;
  const char* onto_names[] = {"", "Accumulate", "Bias"};
  return std::string(Name(types.operands)) + "To" + Name(types.result) +
         (a_transposed ? "T" : "N") + (b_transposed ? "T" : "N") +
         onto_names[static_cast<int>(onto)] + (gap > 0 ? "Strided" : "");
}

INSTANTIATE_TEST_SUITE_P(
    Matmul, MatmulCase,
    ::testing::Combine(::testing::Values(Types{DType::kFloat32, DType::kFloat32},
                                         Types{DType::kFloat64, DType::kFloat64},
                                         Types{DType::kBFloat16, DType::kBFloat16},
                                         Types{DType::kBFloat16, DType::kFloat32}),
                       ::testing::Bool(), ::testing::Bool(),
                       ::testing::Values(Onto::kNothing, Onto::kAccumulate, Onto::kBias),
                       ::testing::Values(0, 3)),
    CaseName);

// [m, k] x [k, n] in bf16, with both operands transposed or none.
void CheckBf16(const Shape& mnk, DType result, bool transposed, bool accumulate) {
  const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
  const Tensor a = RandomTensor(DType::kBFloat16, transposed ? Shape{k, m} : Shape{m, k}, "a");
  const Tensor b = RandomTensor(DType::kBFloat16, transposed ? Shape{n, k} : Shape{k, n}, "b");
  const Tensor c = RandomTensor(result, {m, n}, "c");
  std::vector<double> expected = NaiveMatmul(transposed ? Transposed(a.view()) : a.view(),
                                             transposed ? Transposed(b.view()) : b.view());
  const std::vector<double> before = Values(c.view());
  for (size_t i = 0; accumulate && i < expected.size(); ++i) expected[i] += before[i];
  cpu::Matmul({.a = a.view(),
               .b = b.view(),
               .c = c.view(),
               .a_transposed = transposed,
               .b_transposed = transposed,
               .accumulate = accumulate});
  EXPECT_TRUE(IsClose(c.view(), expected)) << mnk.ToString() << " accumulate " << accumulate;
}

// Larger than the blocks in which bf16 is widened, in each dim in turn.
TEST(Matmul, Bf16EqualsReferenceAcrossBlocks) {
  const std::vector<Shape> sizes = {{1030, 3, 40}, {3, 1030, 40}, {3, 5, 4100}};
  for (const Shape& size : sizes) {
    for (const DType result : {DType::kBFloat16, DType::kFloat32}) {
      for (const bool transposed : {false, true}) {
        for (const bool accumulate : {false, true}) {
          CheckBf16(size, result, transposed, accumulate);
        }
      }
    }
  }
}

// The three products that matmul.h names are a linear layer and its gradients.
TEST(Matmul, LinearLayerGradientsMatchFiniteDifferences) {
  const Tensor x = RandomTensor(DType::kFloat64, {4, 5}, "x");
  const Tensor w = RandomTensor(DType::kFloat64, {3, 5}, "w");
  const Tensor d_y = RandomTensor(DType::kFloat64, {4, 3}, "d_y");
  const Tensor y = MakeTensor(DType::kFloat64, {4, 3});
  const auto loss = [&] {
    cpu::Matmul({.a = x.view(), .b = w.view(), .c = y.view(), .b_transposed = true});
    double sum = 0;
    for (int64_t i = 0; i < 12; ++i) sum += GetValue(y.view(), i) * GetValue(d_y.view(), i);
    return sum;
  };
  const Tensor d_x = MakeTensor(DType::kFloat64, {4, 5}), d_w = MakeTensor(DType::kFloat64, {3, 5});
  cpu::Matmul({.a = d_y.view(), .b = w.view(), .c = d_x.view()});
  cpu::Matmul(
      {.a = d_y.view(), .b = x.view(), .c = d_w.view(), .a_transposed = true, .accumulate = true});
  EXPECT_TRUE(GradientMatches(loss, x.view(), d_x.view()));
  EXPECT_TRUE(GradientMatches(loss, w.view(), d_w.view()));
}

TEST(MatmulDeathTest, NamesTheArgumentThatDoesNotFit) {
  const Tensor a = MakeTensor(DType::kFloat32, {4, 5}), c = MakeTensor(DType::kFloat32, {4, 3});
  const Tensor b = MakeTensor(DType::kFloat32, {6, 3});
  const Tensor bias = MakeTensor(DType::kFloat32, {3}), good = MakeTensor(DType::kFloat32, {5, 3});
  EXPECT_DEATH(cpu::Matmul({.a = a.view(), .b = b.view(), .c = c.view()}),
               "argument b wants fp32\\[5, 3\\], found fp32\\[6, 3\\]");
  EXPECT_DEATH(cpu::Matmul({.a = a.view(),
                            .b = good.view(),
                            .c = c.view(),
                            .bias = bias.view(),
                            .accumulate = true}),
               "bias with accumulate");
}

}  // namespace
}  // namespace muster::kernels
