#pragma once
// AdamW on this rank's shard of every bucket (ZeRO 1 and up), or on whole buckets (ZeRO 0):
// moments, and a master copy when weights are stored in bf16. Weight decay is a property of the
// parameter.
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/ops/adamw.h"
#include "kernels/tensor/arena.h"
#include "parallel/dp/bucket_reducer.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/optim/grad_clip.h"

namespace muster::parallel {

struct AdamWOptions {
  float beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f;
  bool digests = false;  // makes room for them
};

// One parameter's (part of a) state on this rank: a logical range for checkpoints and tests.
struct OptimizerSlice {
  ParameterId parameter;
  int64_t begin, count;  // elements of the parameter's local slice
  kernels::TensorView weight, master, moment1, moment2;
};

class ShardedAdamW {
 public:
  ShardedAdamW(const BucketStorage& storage, const ParameterList& parameters, int zero_level,
               AdamWOptions options, kernels::ArenaPlan& plan);
  // Copies the weights into the master copies; after initial weights.
  void ReadWeights(kernels::StreamView compute);
  // One update with the given rate; `update` counts from 1. Skips if facts.scale is 0. `digests`:
  // also takes those of the state that it meets and leaves (AdamWOptions::digests).
  void Step(double learning_rate, int64_t update, const GradientFacts& facts,
            kernels::StreamView compute, bool digests = false);
  // Digests of the state as it is, in both columns; one pass over it.
  void Digest(kernels::StreamView compute);
  // Int64 [Slices(), 2], of the last Step or Digest that took them: of the state met, and left.
  const kernels::TensorView& digests() const { return digests_; }
  std::vector<OptimizerSlice> Slices() const;
  int zero_level() const { return zero_level_; }

 private:
  struct State {
    // [owned elements of the bucket]; master is null when the weights are their own master
    kernels::TensorView master, moment1, moment2;
  };
  kernels::TensorView OwnedWeights(int bucket) const;
  kernels::TensorView Master(int bucket) const;
  std::vector<kernels::AdamWRange> Ranges() const;
  void Update(const kernels::AdamWArgs& args, kernels::StreamView compute);
  const BucketStorage& storage_;
  const ParameterList& parameters_;
  const int zero_level_;
  const AdamWOptions options_;
  std::vector<State> states_;         // by bucket
  kernels::TensorView table_memory_;  // uint8
  kernels::RangeTable table_;         // of what Step updates; written by the first
  kernels::TensorView digests_;       // null without AdamWOptions::digests
  kernels::TensorView no_scale_;      // accumulator dtype [1], 0
};

}  // namespace muster::parallel
