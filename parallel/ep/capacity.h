#pragma once
// Capacity of experts, counted per sequence, where sequences are cut over the tensor or the context
// group: whose choice finds a place depends on the order of all tokens of a sequence. So the ranks
// that share sequences gather each other's choices (4 k bytes a token), and each counts through all
// of them in the order of tokens: the same places as on one rank, on every layout.
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "parallel/comm/process_group.h"

namespace muster::parallel {

struct CapacityShape {
  int64_t tokens = 0;           // T: of this rank; the tensor group has equal parts, in rank order
  int64_t sequence_tokens = 0;  // of a whole sequence
  int64_t experts = 0;
  int top_k = 1;
  int64_t capacity = 0;  // choices of one sequence that an expert takes
};

class SequenceCapacity {
 public:
  // The groups must outlive it.
  SequenceCapacity(const CapacityShape& shape, const ProcessGroup& tensor,
                   const ProcessGroup& context);
  SequenceCapacity(const SequenceCapacity&) = delete;
  SequenceCapacity& operator=(const SequenceCapacity&) = delete;
  // Scratch; valid until the result of Admit has been used.
  void PlanMemory(kernels::ArenaPlan& plan, const std::string& name);
  // The choices int32 [T, k] with -1 for those that find no place. All ranks of both groups call
  // it.
  absl::StatusOr<kernels::TensorView> Admit(kernels::TensorView experts_TK,
                                            kernels::StreamView compute) const;

 private:
  const CapacityShape shape_;
  const ProcessGroup &tensor_, &context_;
  kernels::TensorView stream_TK_;  // of the tensor group; null if it is of one
  kernels::TensorView all_PTK_;    // of the context group; likewise
  kernels::TensorView admitted_TK_;
};

}  // namespace muster::parallel
