#pragma once
// The keys that queries see, as cuDNN names it: a pure function, tested without a GPU.
#include <cstdint>

namespace muster::kernels::cuda {

enum class AttentionMask {
  kFull,             // every key
  kCausalFromFirst,  // query i sees keys up to i
  kCausalToLast,     // query i sees keys up to i + num_keys - num_queries: the last one sees all
  kOther             // none of these; some queries may see no key
};

// `offset` is q_begin - k_begin: if causal, query i sees keys up to i + offset. Sizes are positive.
constexpr AttentionMask MaskOf(bool causal, int64_t offset, int64_t num_queries, int64_t num_keys) {
  if (!causal || offset >= num_keys - 1) return AttentionMask::kFull;
  if (offset == 0) return AttentionMask::kCausalFromFirst;
  if (offset > 0 && offset == num_keys - num_queries) return AttentionMask::kCausalToLast;
  return AttentionMask::kOther;
}

}  // namespace muster::kernels::cuda
