#include "parallel/cp/context_attention.h"

#include "parallel/cp/gathered_attention.h"
#include "parallel/cp/ring_attention.h"

namespace muster::parallel {

std::unique_ptr<ContextAttention> MakeContextAttention(const ContextAttentionShape& shape,
                                                       const Mesh& mesh, bool gather) {
  MUSTER_CHECK(shape.tokens > 0 && shape.tokens % 2 == 0)
      << shape.tokens << " tokens of a sequence are no two chunks";
  if (gather) return std::make_unique<GatheredAttention>(shape, mesh);
  return std::make_unique<RingAttention>(shape, mesh);
}

}  // namespace muster::parallel
