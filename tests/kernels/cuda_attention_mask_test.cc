#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "kernels/ops/cuda/attention_mask.h"

namespace muster::kernels::cuda {
namespace {

// The last key that query i sees under a mask, by its definition.
int64_t LastKey(AttentionMask mask, int64_t i, int64_t num_queries, int64_t num_keys) {
  if (mask == AttentionMask::kFull) return num_keys - 1;
  const int64_t offset = mask == AttentionMask::kCausalToLast ? num_keys - num_queries : 0;
  return std::min(i + offset, num_keys - 1);
}

// Whether all queries see the same keys as under the op's own definition.
bool IsMask(AttentionMask mask, bool causal, int64_t offset, int64_t num_queries,
            int64_t num_keys) {
  for (int64_t i = 0; i < num_queries; ++i) {
    const int64_t last = causal ? std::min(i + offset, num_keys - 1) : num_keys - 1;
    if (last != LastKey(mask, i, num_queries, num_keys)) return false;
  }
  return true;
}

TEST(AttentionMask, NamesExactlyTheKeysThatQueriesSee) {
  int counts[4] = {};
  for (const bool causal : {false, true}) {
    for (int64_t num_queries = 1; num_queries <= 6; ++num_queries) {
      for (int64_t num_keys = 1; num_keys <= 6; ++num_keys) {
        for (int64_t offset = -8; offset <= 8; ++offset) {
          SCOPED_TRACE(::testing::Message() << causal << " " << num_queries << " queries "
                                            << num_keys << " keys offset " << offset);
          const AttentionMask mask = MaskOf(causal, offset, num_queries, num_keys);
          ++counts[static_cast<int>(mask)];
          if (mask != AttentionMask::kOther) {
            EXPECT_TRUE(IsMask(mask, causal, offset, num_queries, num_keys));
            EXPECT_GE(LastKey(mask, 0, num_queries, num_keys), 0) << "a query sees no key";
          } else {
            EXPECT_FALSE(IsMask(AttentionMask::kFull, causal, offset, num_queries, num_keys));
          }
        }
      }
    }
  }
  for (const int count : counts) EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace muster::kernels::cuda
