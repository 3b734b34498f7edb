#pragma once
// Passes as graphs (kernels/device/graph.h): the first time a microbatch's forward or backward runs
// as ever, the second time it is recorded, and from then on it is launched; but while a trace is
// attached, which wants to see operators, it runs as ever. Sits between the runner
// and the model (parallel::Stage), and between the model's layers and data parallelism
// (parallel::ParameterHooks).
//
// A pass is a chain of pieces. A backward's piece ends with the gradient that completes a bucket,
// whose reduction so starts at once. A forward's pieces use 1, 1, 2, 4, 8 ... buckets that were not
// used before: weights that are still being gathered come in that order and much faster than the
// forward needs them. What layers tell data parallelism is repeated with every launch: what weights
// and gradients they use before the piece, which gradients are ready after it.
//
// For models whose work does not depend on what the host reads, on one pipeline stage, with whole
// weights and gradients (zero.level 0 and 1); runtime/job/job_rules.cc has the rules.
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/graph.h"
#include "kernels/device/stream.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/parameter.h"
#include "parallel/pp/stage.h"

namespace muster::runtime {

class RecordedPasses : public parallel::Stage, public parallel::ParameterHooks {
 public:
  using TensorView = kernels::TensorView;
  using StreamView = kernels::StreamView;

  // All outlive it. `inner` tells its uses of parameters to this object, which passes them on to
  // `hooks`. After `settle` on the compute stream no use of a weight waits, until an update.
  RecordedPasses(parallel::Stage& inner, parallel::ParameterHooks& hooks,
                 std::function<void(StreamView)> settle, const parallel::BucketLayout& layout)
      : inner_(inner), hooks_(hooks), settle_(std::move(settle)), layout_(layout) {}

  // What recordings have in them as a number; if it changes, they are forgotten.
  void BeginStep(int64_t global_valid_tokens);
  int64_t num_launched() const { return num_launched_; }  // passes, so far

  absl::Status Forward(int stage, int microbatch, TensorView in, TensorView out,
                       StreamView compute) override;
  absl::Status Backward(int stage, int microbatch, TensorView d_out, TensorView d_in,
                        StreamView compute) override;
  absl::Status BackwardInput(int stage, int microbatch, TensorView d_out, TensorView d_in,
                             StreamView compute) override;
  absl::Status BackwardWeight(int stage, int microbatch, StreamView compute) override;
  absl::Status Evaluate(int stage, int microbatch, TensorView in, TensorView out,
                        StreamView compute) override;

  void Use(parallel::ParameterId id, StreamView compute) override;
  bool Contribute(parallel::ParameterId id, StreamView compute) override;
  void Ready(parallel::ParameterId id, StreamView compute) override;

 private:
  enum class Told { kUse, kContribute, kReady };
  struct Call {
    Told told;
    parallel::ParameterId id;
    bool adds = false;  // of kContribute: what the layer was answered, and recorded
  };
  struct Piece {
    std::vector<Call> calls;
    kernels::Graph graph;
  };
  enum class Direction { kForward, kBackward };
  struct Pass {
    bool ran = false;  // once, so that libraries have made their choices
    std::vector<Piece> pieces;
  };

  absl::Status Run(Direction direction, int microbatch, StreamView compute,
                   const std::function<absl::Status()>& run);
  absl::Status RecordPass(Pass& pass, StreamView compute, const std::function<absl::Status()>& run);
  void CountUse(int bucket, StreamView compute);
  void LaunchPass(const Pass& pass, StreamView compute);
  void BeginPiece(StreamView compute);
  void EndPiece(StreamView compute);
  int BucketOf(parallel::ParameterId id) const {
    return layout_.bucket_of[static_cast<size_t>(id)];
  }

  parallel::Stage& inner_;
  parallel::ParameterHooks& hooks_;
  const std::function<void(StreamView)> settle_;
  const parallel::BucketLayout& layout_;
  std::map<std::pair<Direction, int>, Pass> passes_;  // by direction and microbatch
  int64_t valid_tokens_ = 0, num_launched_ = 0;
  // Of the recording under way.
  Pass* recording_ = nullptr;
  Direction direction_ = Direction::kForward;
  std::vector<bool> used_;    // by bucket: its weights were used in this pass
  int piece_buckets_ = 0;     // used first in this piece
  int piece_limit_ = 1;       // of them
  std::vector<int> missing_;  // by bucket: gradients that are not ready yet in this pass
  absl::Status failure_;
};

}  // namespace muster::runtime
