#pragma once
// Ring attention (Liu et al., "Ring Attention with Blockwise Transformers", 2023) over chunks taken
// from both ends of the sequence. n ranks, blocks of S tokens (chunks "early" and "late"). In step
// s = 0 .. n-1 rank r holds the keys and values of rank j = r - s mod n, while they travel on to
// rank r + 1. Which of them its queries see, and how much work that is, in chunk pairs:
//   j = r   both chunks, causally                                   2
//   j < r   all queries see all early keys of j, and no late ones   2
//   j > r   the late queries see all keys of j, the early ones none 2
// so every step is one attention over whole rectangles, equally long on all ranks. The forward
// joins the steps by their log-sum-exp, in fp32 (fp64 for fp64).
//
// The backward sends keys and values round once more; with the joined output and log-sum-exp a
// step's gradients are exact pieces of the whole (kernels/ops/attention.h). Gradients of keys go
// straight home, in the step after they are made: (n - 1) messages of 3/4 block on average in the
// storage dtype, instead of fp32 sums that travel all n hops with their block. The home rank adds
// them in fp32, in the order of steps: its own, those of rank r + 1, r + 2, ...
//
// Bytes sent per rank, with 2 K C S B elements a block: forward n - 1 blocks, backward 1.75 (n -
// 1).
#include <string>

#include "parallel/comm/process_group.h"
#include "parallel/comm/side_stream.h"
#include "parallel/cp/context_attention.h"

namespace muster::parallel {

class RingAttention final : public ContextAttention {
 public:
  RingAttention(const ContextAttentionShape& shape, const Mesh& mesh)
      : shape_(shape), mesh_(mesh) {}
  void PlanMemory(kernels::ArenaPlan& plan, const std::string& name) override;
  absl::Status Forward(const ContextForwardArgs& args, kernels::StreamView compute) override;
  absl::Status Backward(const ContextBackwardArgs& args, kernels::StreamView compute) override;

 private:
  // What this rank's queries see of the block of a step: queries from first_query on, keys up to
  // num_keys.
  struct Rectangle {
    int64_t first_query, num_queries, num_keys;
  };
  Rectangle RectangleOf(int step) const;
  // Of the gradients that come home in a step: the rows of keys they are for.
  int64_t NumHomeKeys(int step) const;
  // Sends the block in use in step - 1 on, and takes that of `step`, once the other stream is past
  // `after`.
  absl::Status PassOn(int step, kernels::EventView after);
  void WaitFor(kernels::EventView event, const char* what, kernels::StreamView compute) const;
  void Pack(const kernels::TensorView& kv, kernels::StreamView compute);
  const kernels::TensorView& Block(int step) const { return blocks_[step % 2]; }

  void BackwardStep(const ContextBackwardArgs& args, int step, kernels::StreamView compute);
  absl::Status SendHome(int step);
  void AddHome(int step, kernels::StreamView compute);
  const ProcessGroup& group() const { return mesh_.Group(Axis::kContext); }
  const SideStream& side() const { return mesh_.context_stream(); }

  const ContextAttentionShape shape_;
  const Mesh& mesh_;
  // Scratch. Of both passes:
  kernels::TensorView blocks_[2];  // [B, S, 2K, C]: of even and odd steps
  kernels::TensorView part_;       // [B, S, H, C]: of one step; out, or d_q
  kernels::TensorView lse_part_;   // accumulator dtype [B, H, S]: of one step
  kernels::TensorView sum_;        // accumulator dtype [B, S, H, C]: out (null if `args.out`
                                   // can hold it), or d_q
  // Of the backward:
  kernels::TensorView delta_;       // accumulator dtype [B, H, S]
  kernels::TensorView d_block_[2];  // [B, S, 2K, C]: of even and odd steps, for its home
  kernels::TensorView d_home_[2];   // the same, as they come from other ranks
  kernels::TensorView d_kv_sum_;    // accumulator dtype [B, S, 2K, C]
};

}  // namespace muster::parallel
