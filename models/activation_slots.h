#pragma once
// Where a module keeps what its backward reads: one set of tensors for each microbatch slot; or,
// when the module is recomputed, sets that all its microbatches share. The forward then overwrites
// set 0, and the backward fills a set anew before it reads it: also set 0, which is scratch, or,
// with a split backward, the one of its gradient slot, which stays until BackwardWeight.
#include <string>
#include <vector>

#include "models/layer.h"

namespace muster::models {

template <typename Tensors>
class ActivationSlots {
 public:
  ActivationSlots(const StageContext& stage, bool recomputed)
      : recomputed_(recomputed),
        sets_(
            static_cast<size_t>(recomputed ? stage.num_recompute_sets() : stage.shape.num_slots)) {}
  bool recomputed() const { return recomputed_; }
  const Tensors& operator[](const Pass& pass) const {
    return sets_[static_cast<size_t>(recomputed_ ? pass.recompute_set : pass.slot)];
  }
  // For the memory plan: add(tensors, "slot 1" or "recomputed", lifetime) of every set. Scratch
  // must stay valid from the module's recomputation to the end of its backward.
  template <typename Add>
  void ForEach(Add add) {
    for (size_t i = 0; i < sets_.size(); ++i) {
      const bool scratch = recomputed_ && i == 0;
      std::string name = recomputed_ ? "recomputed " : "slot ";
      name += std::to_string(i);
      add(sets_[i], name, scratch ? Lifetime::kScratch : Lifetime::kActivation);
    }
  }

 private:
  const bool recomputed_;
  std::vector<Tensors> sets_;
};

}  // namespace muster::models
