#pragma once
// Notes which matrix products streams are asked for, by what their algorithms are chosen by. On a
// dry stream that is all that happens: whatever is enqueued there is dropped, so a model's passes
// can be gone through before there is any memory, or another rank.
#include <set>
#include <vector>

#include "kernels/device/stream.h"
#include "kernels/ops/matmul_key.h"

namespace muster::kernels {

class MatmulNotes {
 public:
  MatmulNotes() = default;
  ~MatmulNotes();
  MatmulNotes(const MatmulNotes&) = delete;
  MatmulNotes& operator=(const MatmulNotes&) = delete;

  // From now on, until the notes end; the stream must outlive them. CHECKs that a dry stream is of
  // the CPU.
  void Attach(StreamView stream, bool dry);
  void Note(const MatmulArgs& args);
  // Of the parts that CUDA would run (ForEachPart), whatever the device. Empty products are none.
  const std::set<MatmulKey>& keys() const { return keys_; }

 private:
  std::set<MatmulKey> keys_;
  std::vector<StreamView> attached_;
};

}  // namespace muster::kernels
