// The CUDA operators of context parallelism give what the CPU's give: slices of packed tensors,
// odd sizes, rows that saw no key.
#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

#include "kernels/ops/attention_merge.h"
#include "kernels/ops/copy_rows.h"
#include "tests/support/kernels/device_parity.h"
#include "tests/support/kernels/op_cases.h"

namespace muster::kernels {
namespace {

constexpr DType kF32 = DType::kFloat32;

class CudaContextParity : public OnCuda, public ::testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(, CudaContextParity, ::testing::Values(kF32, DType::kBFloat16), DTypeName);

TEST_P(CudaContextParity, AttentionMergeEqualsCpu) {
  const std::vector<std::pair<int64_t, int64_t>> sizes = {{5, 7}, {64, 128}, {33, 64}};
  for (const auto& [rows, channels] : sizes) {
    const int64_t length = rows + 3;
    const Tensor part = RandomTensor(GetParam(), {2, rows, 3, channels}, "part");
    const Tensor part_lse = RandomTensor(kF32, {2, 3, rows}, "part_lse", 5.0);
    const Tensor out = RandomTensor(kF32, {2, length, 3, channels}, "out");
    const Tensor lse = RandomTensor(kF32, {2, 3, length}, "lse", 5.0);
    SetValue(part_lse.view(), 1, -std::numeric_limits<double>::infinity());
    SetValue(lse.view(), 5, -std::numeric_limits<double>::infinity());
    const int64_t begin = 2;
    ExpectParity(
        [&](Place& place) {
          AttentionMerge({.part = place(part),
                          .part_lse = place(part_lse),
                          .out = place(out),
                          .lse = place(lse),
                          .begin = begin},
                         place.stream());
        },
        {Close(out, ToleranceOf(kF32)), Close(lse, ToleranceOf(kF32))});
  }
}

TEST_P(CudaContextParity, CopyRowsEqualsCpu) {
  for (const int64_t width : {24, 7}) {
    for (const DType to : {kF32, DType::kBFloat16}) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = RandomTensor(GetParam(), {2, 9, 40}, "x");
        const Tensor out = RandomTensor(to, {2, 13, 48}, "out");
        ExpectParity(
            [&](Place& place) {
              CopyRows({.x = place(x).Slice(2, 8, 8 + width),
                        .out = place(out).Slice(1, 3, 12).Slice(2, 16, 16 + width),
                        .accumulate = accumulate},
                       place.stream());
            },
            {SameBits(out)});
      }
    }
  }
}

}  // namespace
}  // namespace muster::kernels
