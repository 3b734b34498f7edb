#pragma once
// Training memory, planned before step 1 and taken in one piece. Who needs a tensor adds it to the
// plan with a name, a lifetime and the view to be bound; Arena::Allocate takes the planned bytes
// and binds every view. The planned number and the allocated number are the same number.
//
// A view added to a plan must stay at its address until the arena is allocated.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels {

enum class Lifetime {
  kPersistent,  // weights, gradients, optimizer state: holds its bytes for the whole job
  kActivation,  // kept from forward to backward of one microbatch slot
  kScratch,     // valid inside one scope of the plan; scopes side by side share their bytes
};

class ArenaPlan {
 public:
  struct Block {
    std::string name;
    Lifetime lifetime;
    DType dtype;
    Shape shape;
    int64_t offset_bytes;
    TensorView* bound;
  };
  // Reserves room for a contiguous tensor; `*view` is bound by Arena::Allocate. A scratch tensor
  // must be added inside a ScratchScope.
  void Add(TensorView* view, std::string name, DType dtype, Shape shape, Lifetime lifetime);

  // Scratch added while a scope is open is released when it closes: the next scope reuses the
  // bytes. Scopes nest like a stack.
  class ScratchScope {
   public:
    explicit ScratchScope(ArenaPlan& plan) : plan_(plan), begin_(plan.scratch_top_) {
      ++plan_.open_scopes_;
    }
    ~ScratchScope() {
      plan_.scratch_top_ = begin_;
      --plan_.open_scopes_;
    }

   private:
    ArenaPlan& plan_;
    int64_t begin_;
  };

  int64_t total_bytes() const { return held_bytes_ + scratch_peak_; }
  int64_t bytes(Lifetime lifetime) const;  // kScratch: the peak over scopes
  const std::vector<Block>& blocks() const { return blocks_; }
  // A table of the `most` biggest blocks, for messages about memory.
  std::string Describe(int most) const;

 private:
  friend class Arena;
  std::vector<Block> blocks_;  // scratch offsets count from the end of held_bytes_
  int64_t held_bytes_ = 0, scratch_top_ = 0, scratch_peak_ = 0;
  int open_scopes_ = 0;
};

class Arena {
 public:
  Arena() = default;
  // Takes plan.total_bytes() of zeroed memory and binds every view of the plan. Errors:
  // ResourceExhausted, naming the biggest blocks.
  static absl::StatusOr<Arena> Allocate(const ArenaPlan& plan, Device device);
  // Binds every view of the plan as if plan.total_bytes() of memory were at `base`, a multiple of
  // kMemoryAlignment: for dry streams (kernels/ops/matmul_notes.h), which never look there.
  static void Bind(const ArenaPlan& plan, void* base, Device device);
  int64_t bytes() const { return buffer_.bytes(); }

 private:
  DeviceBuffer buffer_;
};

}  // namespace muster::kernels
