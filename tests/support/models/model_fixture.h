#pragma once
// A whole model with memory, weights and a batch, on one rank of a mesh: what tests of models/ and
// of whatever drives a model need. The batch depends on the index of a sequence in the global batch
// only, so layouts can be compared.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor/arena.h"
#include "models/gpt.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/grad_bucket.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::models {

// Counts the calls of each parameter.
class CountingHooks : public parallel::ParameterHooks {
 public:
  void Use(parallel::ParameterId id, kernels::StreamView) override { ++Count(uses, id); }
  void Ready(parallel::ParameterId id, kernels::StreamView) override {
    ++Count(readies, id);
    order.push_back(id);
  }
  std::vector<int> uses, readies;            // by parameter
  std::vector<parallel::ParameterId> order;  // in which they became ready

 private:
  static int& Count(std::vector<int>& counts, parallel::ParameterId id) {
    if (counts.size() <= static_cast<size_t>(id)) counts.resize(static_cast<size_t>(id) + 1);
    return counts[static_cast<size_t>(id)];
  }
};

struct FixtureOptions {
  StageShape shape;
  uint64_t seed = 1;
  kernels::StreamMode mode = kernels::StreamMode::kInline;
  parallel::World* world = nullptr;  // null: a world of one
  parallel::MeshDegrees degrees = {.dp = 1};
  // Every n-th target is masked (-100); 0: none.
  int masked_targets = 5;
};

class ModelFixture {
 public:
  ModelFixture(const ModelConfig& config, const FixtureOptions& options);

  // One step without an update: forward and backward of every microbatch in turn. Returns the sum
  // of the three losses (of this rank).
  double Step();
  // Zeroes gradients and facts; Step begins with it.
  void Begin();
  void Forward(int microbatch);
  void Backward(int microbatch);

  // Fills activations and scratch with NaN (integers with -1).
  void Poison();

  std::vector<double> Losses() const { return kernels::Values(model->facts().losses); }
  parallel::ParameterId Find(const std::string& global_name) const;
  kernels::StreamView compute() const { return stream_.view(); }
  void Synchronize() const { MUSTER_CHECK_OK(compute().Synchronize()); }
  int64_t global_valid_tokens() const { return global_valid_tokens_; }
  const kernels::ArenaPlan& plan() const { return plan_; }

 private:
  void MakeBatch(int vocab_size);
  const FixtureOptions options_;
  std::unique_ptr<parallel::World> alone_;
  kernels::Stream stream_;
  kernels::Tensor tokens_, targets_, positions_;  // int32 [microbatches, T]
  int64_t global_valid_tokens_ = 0;
  kernels::ArenaPlan plan_;
  kernels::Arena arena_;

 public:
  std::unique_ptr<parallel::Mesh> mesh;
  std::unique_ptr<parallel::ParameterList> parameters;
  std::unique_ptr<Gpt> model;
  parallel::BucketLayout layout;
  std::unique_ptr<parallel::BucketStorage> storage;
  CountingHooks hooks;
  std::vector<MicrobatchTokens> microbatches;
};

}  // namespace muster::models
