#include "kernels/ops/attention_support.h"

#include <gtest/gtest.h>

namespace muster::kernels {
namespace {

constexpr DType kBf16 = DType::kBFloat16, kF32 = DType::kFloat32;

TEST(AttentionSupport, FusedKernelsTakeMultiplesOfEightUpTo256) {
  for (int64_t size = 1; size <= 300; ++size) {
    const bool taken = size % 8 == 0 && size <= 256;
    EXPECT_EQ(HeadSizeProblem(AttentionKernel::kCudnn, kBf16, size, size).empty(), taken) << size;
  }
}

TEST(AttentionSupport, ValuesMayBeNarrowerOnlyInLatentAttention) {
  EXPECT_EQ(HeadSizeProblem(AttentionKernel::kCudnn, kBf16, 192, 128), "");
  for (const auto& [head_size, value_head_size] :
       {std::pair{128, 64}, std::pair{128, 192}, std::pair{192, 120}, std::pair{192, 127}}) {
    EXPECT_NE(HeadSizeProblem(AttentionKernel::kCudnn, kBf16, head_size, value_head_size), "")
        << head_size << " " << value_head_size;
  }
}

TEST(AttentionSupport, DirectKernelsTakeAnySizesUpTo256AndRunAllOfFp32) {
  for (const auto& [kernel, dtype] :
       {std::pair{AttentionKernel::kDirect, kBf16}, std::pair{AttentionKernel::kDirect, kF32},
        std::pair{AttentionKernel::kCudnn, kF32}}) {
    EXPECT_EQ(HeadSizeProblem(kernel, dtype, 7, 256), "");
    EXPECT_NE(HeadSizeProblem(kernel, dtype, 257, 8), "");
    EXPECT_NE(HeadSizeProblem(kernel, dtype, 8, 257), "");
  }
}

}  // namespace
}  // namespace muster::kernels
