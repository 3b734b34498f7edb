#pragma once
// A training job without a model, for tests of data parallelism: parameters of awkward sizes, dense
// and expert, whose gradients are made up. The gradient that a rank contributes to an element in a
// microbatch is a function of (step, rank, microbatch, global name, global index), so a job of one
// rank can be given the contributions of all ranks of another job.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/dp/data_parallel.h"
#include "parallel/optim/grad_clip.h"
#include "parallel/optim/sharded_adamw.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::parallel {

struct JobOptions {
  MeshDegrees degrees = {};  // of the world that the job runs on
  // Ranks whose contributions it receives: its own rank's when 0, else (one-rank reference) those
  // of all ranks of a world with `degrees_of_others`.
  int ranks_to_imitate = 0;
  MeshDegrees degrees_of_others = {};
  int64_t bucket_bytes = 2048;
  kernels::DType weight_dtype = kernels::DType::kFloat32;
  DataParallelOptions data_parallel = {};
  kernels::StreamMode compute_mode = kernels::StreamMode::kInline;
  double max_norm = 0;
  int microbatches = 2;
  int more_layers = 0;  // of equal size
  // Holds up one stream in each step, so that a missing wait for it shows.
  std::chrono::milliseconds compute_delay{0}, comm_delay{0};
  bool forward_order = false;  // gradients become ready in the order of the forward
  bool late_ready = false;     // ... only after all of them have been added to
  // Contributions are multiples of 1/64, so sums of a few are exact in any order.
  bool exact = false;
  bool writes_gradients = true;  // those of linear layers, with their first contribution
};

// Elements of a parameter's row-major global tensor that a rank holds. Parameters here are sharded
// along dim 0 only, so they are one range.
struct GlobalRange {
  int64_t begin, end;
};
inline GlobalRange RangeOf(const Parameter& parameter, const LocalSlice& slice) {
  const int64_t row = parameter.global_shape.num_elements() / parameter.global_shape[0];
  return {slice.begin[0] * row, (slice.begin[0] + slice.size[0]) * row};
}

inline float Contribution(const Parameter& parameter, int64_t index, int64_t step, int rank,
                          int microbatch, bool exact) {
  const kernels::PhiloxKey key = kernels::MakePhiloxKey(7, parameter.global_name);
  const auto counter = static_cast<uint64_t>((step * 64 + rank) * 64 + microbatch);
  const float value =
      kernels::NormalFromBlock(kernels::Philox(key, static_cast<uint64_t>(index), counter));
  return exact ? std::round(value * 64) / 64 : value;
}

class TrainingJob {
 public:
  TrainingJob(World& world, const JobOptions& options)
      : options_(options),
        rank_(world.rank()),
        mesh_(Take(Mesh::Create(world, options.degrees, {}))),
        parameters_(*mesh_) {
    AddParameters();
    layout_ = PlanBuckets(parameters_, options.bucket_bytes, kernels::DType::kFloat32);
    compute_ = std::make_unique<kernels::Stream>(
        Take(kernels::Stream::Create({}, options.compute_mode, "compute")));
    comm_ = std::make_unique<kernels::Stream>(
        Take(kernels::Stream::Create({}, kernels::StreamMode::kQueue, "comm")));
    kernels::ArenaPlan plan;
    storage_ = std::make_unique<BucketStorage>(layout_, options.weight_dtype, plan,
                                               options.data_parallel.zero_level);
    const DataParallelOptions& dp = options.data_parallel;
    clip_ = std::make_unique<GradientClip>(*storage_, *mesh_, options.max_norm, plan);
    adamw_ =
        std::make_unique<ShardedAdamW>(*storage_, parameters_, dp.zero_level, AdamWOptions(), plan);
    planned_bytes_ = plan.total_bytes();
    arena_ = Take(kernels::Arena::Allocate(plan, {}));
    storage_->Bind(parameters_);
    reducer_ = Take(BucketReducer::Create(*storage_, *mesh_, dp, comm()));
    gather_ = Take(ParamGather::Create(*storage_, *mesh_, dp, comm()));
    hooks_ = std::make_unique<DataParallelHooks>(layout_, *reducer_, *gather_);
    MUSTER_CHECK_OK(gather_->WriteWeights(
        [this](const Parameter& p) { InitializeWeight(p, /*seed=*/1, compute()); }, compute()));
    adamw_->ReadWeights(compute());
    MUSTER_CHECK_OK(compute().Synchronize());
  }

  // Adds a microbatch's contributions, each Ready at once.
  void Backward(int64_t step, int microbatch) {
    reducer_->SetLastMicrobatch(microbatch + 1 == options_.microbatches);
    for (ParameterId i = 0; i < parameters_.size(); ++i) {
      const ParameterId id = options_.forward_order ? i : parameters_.size() - 1 - i;
      if (id == never_ready) continue;
      const bool adds = hooks_->Contribute(id, compute());
      compute().Enqueue([this, id, step, microbatch, adds, gradient = parameters_[id].gradient] {
        if (!adds) std::fill_n(gradient.as<float>(), gradient.num_elements(), 0.0f);
        AddContributions(id, step, microbatch, gradient.as<float>());
      });
      if (!options_.late_ready) hooks_->Ready(id, compute());
    }
    for (ParameterId id = parameters_.size() - 1; id >= 0 && options_.late_ready; --id) {
      hooks_->Ready(id, compute());
    }
  }
  absl::Status ReduceGradients(int64_t step) {
    reducer_->BeginStep(compute());
    Delay(compute(), options_.compute_delay);
    Delay(comm(), options_.comm_delay);
    for (int m = 0; m < options_.microbatches; ++m) Backward(step, m);
    return reducer_->Finish(compute());
  }
  // One whole step; `step` counts from 1. Every weight is used, as a forward would.
  absl::Status Step(int64_t step) {
    for (ParameterId id = 0; id < parameters_.size(); ++id) hooks_->Use(id, compute());
    RETURN_IF_ERROR(ReduceGradients(step));
    RETURN_IF_ERROR(clip_->Measure(compute()));
    Delay(compute(), options_.compute_delay);
    Delay(comm(), options_.comm_delay);
    adamw_->Step(/*learning_rate=*/0.01, step, clip_->facts(), compute());
    return gather_->Start(compute());
  }
  void Run(int64_t num_steps) {
    for (int64_t step = 1; step <= num_steps; ++step) ASSERT_TRUE(Step(step).ok());
    Synchronize();
  }
  // Waits for both streams and for all weights.
  void Synchronize() {
    gather_->Finish(compute());
    const absl::Status compute_status = compute().Synchronize(), comm_status = comm().Synchronize();
    ASSERT_TRUE(compute_status.ok()) << compute_status;
    ASSERT_TRUE(comm_status.ok()) << comm_status;
  }

  // By ParameterId: the values of this rank's slice. Collective.
  std::vector<std::vector<double>> Weights() {
    std::vector<std::vector<double>> weights;
    for (ParameterId id = 0; id < parameters_.size(); ++id) {
      hooks_->Use(id, compute());
      MUSTER_CHECK_OK(compute().Synchronize());
      weights.push_back(kernels::Values(parameters_[id].weight));
    }
    return weights;
  }
  // The part of a one-rank job's values that `other`'s rank holds.
  std::vector<double> SliceFor(const TrainingJob& other, ParameterId id,
                               const std::vector<double>& whole) const {
    const Parameter& theirs = other.parameters_[id];
    const GlobalRange range = RangeOf(theirs, theirs.slice);
    return {whole.begin() + range.begin, whole.begin() + range.end};
  }

  const JobOptions& options() const { return options_; }
  const Mesh& mesh() const { return *mesh_; }
  ParameterList& parameters() { return parameters_; }
  const BucketLayout& layout() const { return layout_; }
  const BucketStorage& storage() const { return *storage_; }
  BucketReducer& reducer() { return *reducer_; }
  ParamGather& gather() { return *gather_; }
  DataParallelHooks& hooks() { return *hooks_; }
  GradientClip& clip() { return *clip_; }
  ShardedAdamW& adamw() { return *adamw_; }
  int64_t planned_bytes() const { return planned_bytes_; }
  kernels::StreamView compute() const { return compute_->view(); }
  kernels::StreamView comm() const { return comm_->view(); }

  ParameterId never_ready = -1;  // left out of the backward
  bool spoil = false;            // one gradient becomes infinite

 private:
  template <typename T>
  static T Take(absl::StatusOr<T> value) {
    MUSTER_CHECK(value.ok()) << value.status();
    return *std::move(value);
  }

  static void Delay(kernels::StreamView stream, std::chrono::milliseconds delay) {
    if (delay.count() > 0) stream.Enqueue([delay] { std::this_thread::sleep_for(delay); });
  }

  void AddParameters() {
    const Placement dense;
    const Placement expert{.shards = {{Axis::kExpert, 0}}, .replica_axis = Axis::kExpertData};
    parameters_.Add("embedding", {37, 16}, dense, {});
    parameters_.Add("layer0.norm", {16}, dense, {InitRule::Kind::kOnes}, false);
    const bool writes = options_.writes_gradients;
    parameters_.Add("layer0.linear", {16, 24}, dense, {}, true, writes);
    parameters_.Add("layer0.experts", {12, 5, 7}, expert, {});
    parameters_.Add("layer0.expert_bias", {12, 3}, expert, {InitRule::Kind::kZeros}, false);
    parameters_.Add("layer1.linear", {24, 16}, dense, {}, true, writes);
    parameters_.Add("layer1.bias", {1}, dense, {InitRule::Kind::kZeros}, false, writes);
    parameters_.Add("layer1.experts", {12, 7, 5}, expert, {});
    parameters_.Add("head", {16, 37}, dense, {}, true, writes);
    for (int i = 0; i < options_.more_layers; ++i) {
      parameters_.Add("more" + std::to_string(i) + ".linear", {16, 24}, dense, {}, true, writes);
      parameters_.Add("more" + std::to_string(i) + ".experts", {12, 7, 5}, expert, {});
    }
  }

  void AddContributions(ParameterId id, int64_t step, int microbatch, float* gradient) {
    const Parameter& parameter = parameters_[id];
    const GlobalRange mine = RangeOf(parameter, parameter.slice);
    const bool imitates = options_.ranks_to_imitate > 0;
    const int first = imitates ? 0 : rank_;
    const int end = imitates ? options_.ranks_to_imitate : rank_ + 1;
    for (int rank = first; rank < end; ++rank) {
      const GlobalRange theirs = imitates ? RangeOfRank(parameter, rank) : mine;
      for (int64_t i = theirs.begin; i < theirs.end; ++i) {
        gradient[i - mine.begin] +=
            Contribution(parameter, i, step, rank, microbatch, options_.exact);
      }
    }
    if (spoil && id == 2) gradient[5] = std::numeric_limits<float>::infinity();
  }
  GlobalRange RangeOfRank(const Parameter& parameter, int rank) const {
    const MeshDegrees& degrees = options_.degrees_of_others;
    return RangeOf(parameter, SliceOf(parameter.global_shape, parameter.placement,
                                      CoordinatesOf(rank, degrees), degrees));
  }

  const JobOptions options_;
  const int rank_;
  std::unique_ptr<Mesh> mesh_;
  ParameterList parameters_;
  BucketLayout layout_;
  int64_t planned_bytes_ = 0;
  kernels::Arena arena_;
  std::unique_ptr<BucketStorage> storage_;
  std::unique_ptr<BucketReducer> reducer_;
  std::unique_ptr<ParamGather> gather_;
  std::unique_ptr<DataParallelHooks> hooks_;
  std::unique_ptr<GradientClip> clip_;
  std::unique_ptr<ShardedAdamW> adamw_;
  // Last, so that work in flight ends before what it touches.
  std::unique_ptr<kernels::Stream> compute_, comm_;
};

// All ways to fold the experts of a world of `world_size` ranks (12 experts).
inline std::vector<MeshDegrees> JobDegrees(int world_size) {
  std::vector<MeshDegrees> all;
  for (int ep = 1; ep <= world_size; ++ep) {
    if (world_size % ep != 0) continue;
    MeshDegrees degrees;
    degrees.dp = world_size;
    degrees.ep = ep;
    all.push_back(degrees);
  }
  return all;
}

// The same, and every way to divide the replicas into blocks that shard.
inline std::vector<MeshDegrees> ShardedJobDegrees(int world_size) {
  std::vector<MeshDegrees> all;
  for (MeshDegrees degrees : JobDegrees(world_size)) {
    for (degrees.shard = 0; degrees.shard <= world_size; ++degrees.shard) {
      std::vector<std::string> problems;
      CheckShards(degrees, &problems);
      if (problems.empty()) all.push_back(degrees);
    }
  }
  return all;
}

// The job that computes on one rank what the job of `options` computes on `world_size`.
inline JobOptions OneRankReference(JobOptions options, int world_size) {
  options.ranks_to_imitate = world_size;
  options.degrees_of_others = options.degrees;
  options.degrees = MeshDegrees();
  options.degrees.dp = 1;
  return options;
}

}  // namespace muster::parallel
