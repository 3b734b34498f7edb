#pragma once
// Matrix products and attention against the rate of a big square product in the same run.
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/device/device.h"
#include "launch/bench/table.h"

namespace muster::launch {

// A linear layer with weight [n, k] on m tokens.
struct GemmShape {
  int64_t m = 0, n = 0, k = 0;
};
// Causal; q [b, s, heads, c], k [b, s, kv_heads, c], v [b, s, kv_heads, value_c], packed.
struct AttentionShape {
  int64_t b = 0, s = 0, heads = 0, kv_heads = 0, c = 0, value_c = 0;
};

// What transformers of 1 to 8 G parameters do; on CPU small ones.
std::vector<GemmShape> UsualGemms(kernels::Device device);
std::vector<AttentionShape> UsualAttentions(kernels::Device device);

// Three rows a shape: forward, input gradient, weight gradient (accumulated in the accumulator
// dtype). Errors: out of memory, no kernel.
absl::StatusOr<BenchTable> BenchGemm(const std::vector<GemmShape>& shapes, kernels::Device device,
                                     kernels::DType dtype);
// Two rows a shape: forward and backward. Causal attention's FLOPs are counted half.
absl::StatusOr<BenchTable> BenchAttention(const std::vector<AttentionShape>& shapes,
                                          kernels::Device device, kernels::DType dtype);

}  // namespace muster::launch
