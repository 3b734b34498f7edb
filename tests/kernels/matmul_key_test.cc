#include "kernels/ops/matmul_key.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/support/kernels/host_tensor.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

// Random numbers in rows `stride` elements apart.
struct Matrix {
  Tensor memory;
  TensorView view;
};
Matrix Random(DType dtype, int64_t rows, int64_t columns, int64_t stride, const char* name) {
  Matrix made = {MakeTensor(dtype, {rows, stride}), {}};
  FillRandom(made.memory.view(), name);
  made.view = made.memory.view().Slice(1, 0, columns);
  return made;
}

TEST(MatmulKey, TellsWhatAnAlgorithmDependsOn) {
  const Tensor memory = MakeTensor(DType::kBFloat16, {64, 64});
  const TensorView square = memory.view();
  const MatmulArgs plain = {.a = square, .b = square, .c = square};
  std::set<std::string> names = {MatmulKey::Of(plain).ToString()};
  const auto differs = [&](const MatmulArgs& args) {
    EXPECT_NE(MatmulKey::Of(args), MatmulKey::Of(plain));
    EXPECT_TRUE(names.insert(MatmulKey::Of(args).ToString()).second)
        << MatmulKey::Of(args).ToString();
  };
  const auto with = [&](auto change) {
    MatmulArgs args = plain;
    change(args);
    return args;
  };
  differs(with([](MatmulArgs& x) { x.a_transposed = true; }));
  differs(with([](MatmulArgs& x) { x.b_transposed = true; }));
  differs(with([](MatmulArgs& x) { x.accumulate = true; }));
  differs(with([&](MatmulArgs& x) { x.bias = square.Slice(0, 0, 1).Reshape({64}); }));
  differs(with([&](MatmulArgs& x) { x.c.dtype = DType::kFloat32; }));
  differs(with([&](MatmulArgs& x) { x.a = square.Slice(0, 0, 32), x.c = square.Slice(0, 0, 32); }));
  differs(with([&](MatmulArgs& x) { x.b = x.c = square.Slice(1, 0, 32); }));  // strides too
  // Rows that begin at multiples of 2 bytes only.
  differs(with([&](MatmulArgs& x) { x.b = x.c = square.Slice(1, 1, 33); }));
  EXPECT_EQ(names.size(), 9u);
  const MatmulArgs odd = with([&](MatmulArgs& x) { x.b = x.c = square.Slice(1, 1, 33); });
  EXPECT_EQ(MatmulKey::Of(odd).b_alignment, 2);
  EXPECT_EQ(MatmulKey::Of(odd).a_alignment, 16);
}

TEST(MatmulKey, DependsOnNoAddressBeyondItsAlignment) {
  const Tensor one = MakeTensor(DType::kFloat32, {8, 8}), two = MakeTensor(DType::kFloat32, {8, 8});
  EXPECT_EQ(MatmulKey::Of({.a = one.view(), .b = one.view(), .c = two.view()}),
            MatmulKey::Of({.a = two.view(), .b = one.view(), .c = one.view()}));
}

TEST(MatmulKey, CountsTheBytesOfOperandsAsStored) {
  const Matrix a = Random(DType::kBFloat16, 5, 3, 8, "a"),
               b = Random(DType::kBFloat16, 5, 7, 7, "b");
  const Tensor c = MakeTensor(DType::kFloat32, {3, 7});
  const MatmulKey key =
      MatmulKey::Of({.a = a.view, .b = b.view, .c = c.view(), .a_transposed = true});
  EXPECT_EQ(key.a_bytes(), (4 * 8 + 3) * 2);
  EXPECT_EQ(key.b_bytes(), 5 * 7 * 2);
  EXPECT_EQ(key.c_bytes(), 3 * 7 * 4);
  EXPECT_EQ(key.flops(), 2.0 * 3 * 7 * 5);
}

TEST(ForEachPart, PartsAddUpToTheProduct) {
  // Around the shortest dim that is cut.
  for (const int64_t m : {261})
    for (const int64_t n : {255, 257})
      for (const int64_t k : {64, 259})
        for (const bool a_transposed : {false, true})
          for (const bool b_transposed : {false, true})
            for (const bool accumulate : {false, true}) {
              SCOPED_TRACE(std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) +
                           (a_transposed ? " T" : " N") + (b_transposed ? "T" : "N") +
                           (accumulate ? " onto" : ""));
              const DType bf16 = DType::kBFloat16;
              const Matrix a =
                  a_transposed ? Random(bf16, k, m, 272, "a") : Random(bf16, m, k, 272, "a");
              const Matrix b =
                  b_transposed ? Random(bf16, n, k, 272, "b") : Random(bf16, k, n, 272, "b");
              const Matrix whole = Random(DType::kFloat32, m, n, 272, "c");
              const Matrix parts = Random(DType::kFloat32, m, n, 272, "c");
              MatmulArgs args = {.a = a.view,
                                 .b = b.view,
                                 .c = whole.view,
                                 .a_transposed = a_transposed,
                                 .b_transposed = b_transposed,
                                 .accumulate = accumulate};
              cpu::Matmul(args);
              args.c = parts.view;
              double flops = 0;
              ASSERT_TRUE(ForEachPart(args, [&](const MatmulArgs& part) {
                            CheckArgs(part);
                            cpu::Matmul(part);
                            flops += MatmulKey::Of(part).flops();
                            return absl::OkStatus();
                          }).ok());
              EXPECT_EQ(flops, 2.0 * static_cast<double>(m * n * k));
              EXPECT_TRUE(IsClose(parts.view, Values(whole.view)));
            }
}

TEST(ForEachPart, StopsAtTheFirstFailure) {
  const Tensor a = MakeTensor(DType::kBFloat16, {8, 264}), c = MakeTensor(DType::kBFloat16, {8, 8});
  const TensorView odd = a.view().Slice(1, 0, 261);
  int parts = 0;
  const absl::Status status = ForEachPart({.a = odd, .b = odd, .c = c.view(), .b_transposed = true},
                                          [&](const MatmulArgs&) {
                                            ++parts;
                                            return absl::InternalError("no");
                                          });
  EXPECT_EQ(parts, 1);
  EXPECT_EQ(status.message(), "no");
}

}  // namespace
}  // namespace muster::kernels
