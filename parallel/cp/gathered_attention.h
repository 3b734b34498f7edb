#pragma once
// Context-parallel attention with all keys and values gathered on each rank, as Llama 3 was trained
// (Grattafiori et al., "The Llama 3 Herd of Models", 2024, section 3.3.2). Each of the rank's two
// chunks of queries then attends to all keys up to its own end. The backward gathers again and
// reduce-scatters the gradients of keys and values, in fp32 (fp64 for fp64).
//
// Against the ring: two attentions a layer instead of n, of full length; but nothing is hidden, and
// scratch holds keys, values and their gradients of the whole sequence. The log-sum-exp is kept as
// [2, B, H, S / 2]: the early chunk's, then the late one's.
#include <string>

#include "parallel/comm/process_group.h"
#include "parallel/cp/context_attention.h"

namespace muster::parallel {

class GatheredAttention final : public ContextAttention {
 public:
  GatheredAttention(const ContextAttentionShape& shape, const Mesh& mesh)
      : shape_(shape), mesh_(mesh) {}
  void PlanMemory(kernels::ArenaPlan& plan, const std::string& name) override;
  absl::Status Forward(const ContextForwardArgs& args, kernels::StreamView compute) override;
  absl::Status Backward(const ContextBackwardArgs& args, kernels::StreamView compute) override;

 private:
  // All keys and values, by position, to ordered_.
  absl::Status Gather(const kernels::TensorView& kv, kernels::StreamView compute);
  // Which chunk of the sequence this rank's early (0) or late (1) chunk is.
  int64_t ChunkOf(int half) const;
  // Chunk `chunk` of every sequence, as rows: of a tensor by position, or by rank.
  kernels::TensorView InOrder(const kernels::TensorView& ordered, int64_t chunk) const;
  kernels::TensorView ByRank(const kernels::TensorView& by_rank, int64_t chunk) const;
  void BackwardHalf(const ContextBackwardArgs& args, int half, kernels::StreamView compute);
  const ProcessGroup& group() const { return mesh_.Group(Axis::kContext); }
  int64_t chunk_tokens() const { return shape_.tokens / 2; }
  int64_t num_chunks() const { return 2 * group().size(); }

  const ContextAttentionShape shape_;
  const Mesh& mesh_;
  // Scratch.
  kernels::TensorView by_rank_;    // [n, B, S, 2K, C]
  kernels::TensorView ordered_;    // [B, n S, 2K, C]
  kernels::TensorView delta_;      // accumulator dtype [B, H, S / 2]
  kernels::TensorView d_ordered_;  // [B, n S, 2K, C]: of one chunk of queries
  kernels::TensorView d_by_rank_;  // accumulator dtype [n, B, S, 2K, C]: of both
  kernels::TensorView d_kv_;       // accumulator dtype [B, S, 2K, C]: summed over ranks
};

}  // namespace muster::parallel
