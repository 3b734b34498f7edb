#pragma once
// Everything that stands before step 1 of one rank: mesh, model, buckets, optimizer, streams, and
// the one arena that holds their memory. Members are listed in order of construction; a step
// allocates nothing.
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/span.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "models/cost.h"
#include "models/gpt.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/bucket_digests.h"
#include "parallel/dp/data_parallel.h"
#include "parallel/dp/tied_weight.h"
#include "parallel/mesh/mesh.h"
#include "parallel/optim/sharded_adamw.h"
#include "parallel/pp/runner.h"
#include "runtime/checkpoint/weights.h"
#include "runtime/job/config.h"
#include "runtime/train/recorded_passes.h"

namespace muster::runtime {

class StartTimes;  // runtime/train/start_times.h

// What the host reads after a step, summed over the world; one all-reduce brings it.
struct StepSums {
  static constexpr int kLosses = 3;        // cross-entropy, auxiliary, z
  static constexpr int kStopRequests = 3;  // ranks that a signal asked to stop
  static constexpr int kTimeUp = 4;        // ranks whose clock says that max_seconds have passed
  static constexpr int kSize = 5;
};

struct TrainingOptions {
  std::string run_directory;  // keeps what was chosen for this run; empty: nothing does
  // kQueue in tests that look for missing waits.
  kernels::StreamMode compute_mode = kernels::StreamMode::kInline;
  StartTimes* start = nullptr;  // hears of each part of the start
};

struct TrainingState {
  static absl::StatusOr<std::unique_ptr<TrainingState>> Build(const ResolvedJob& job,
                                                              parallel::World& world,
                                                              const TrainingOptions& options = {});
  // The first part of it: all that decides about memory, up to the full `plan`; nothing is
  // allocated. What a job takes is so known offline (runtime/train/planned_memory.h).
  static absl::StatusOr<std::unique_ptr<TrainingState>> Plan(const ResolvedJob& job,
                                                             parallel::World& world,
                                                             kernels::Device device,
                                                             kernels::StreamMode compute_mode);

  kernels::Device device;
  kernels::Arena arena;  // outlives groups, whose ranks may map each other's
  std::unique_ptr<parallel::Mesh> mesh;
  parallel::PipelineRun training, evaluation;  // this rank's part of each
  // The first run of each, which on GPUs goes another way (parallel/pp/runner.h, PlanOpening).
  parallel::PipelineRun first_training, first_evaluation;
  int evaluation_microbatches = 1;
  std::unique_ptr<parallel::TiedWeight> tied_weight;
  std::unique_ptr<parallel::ParameterList> parameters;
  models::StageShape shape;
  std::unique_ptr<models::Gpt> model;
  models::ModelCost cost;
  parallel::BucketLayout layout;
  kernels::ArenaPlan plan;
  std::unique_ptr<parallel::BucketStorage> buckets;
  std::unique_ptr<parallel::GradientClip> clip;
  std::unique_ptr<parallel::ShardedAdamW> optimizer;
  std::unique_ptr<parallel::BucketDigests> digests;  // null if nothing asks for them

  // Device copies of the batch, int32 [microbatches, T] each, cut into microbatches.
  kernels::TensorView tokens, targets, positions;
  std::vector<models::MicrobatchTokens> microbatches;
  kernels::TensorView step_sums;                                     // fp64 [StepSums::kSize]
  kernels::DeviceBuffer host_sums, host_load, host_rows, host_norm;  // host sides of the facts
  // Host sides of the batch: tokens, targets, positions. Two, so that one step's can be filled
  // while the device still reads the other's.
  std::array<kernels::DeviceBuffer, 2> host_batches;

  std::unique_ptr<kernels::Stream> compute_stream, comm_stream;
  std::unique_ptr<parallel::Channels> channels;  // between stages
  std::unique_ptr<kernels::Timeline> timeline;   // of the compute stream
  std::unique_ptr<parallel::BucketReducer> reducer;
  std::unique_ptr<parallel::ParamGather> gather;
  std::unique_ptr<parallel::DataParallelHooks> hooks;
  std::unique_ptr<RecordedPasses> passes;  // null without schedule.graphs

  // What the runner drives.
  parallel::Stage& stage() const {
    return passes != nullptr ? static_cast<parallel::Stage&>(*passes) : *model;
  }
  // Once the plan's views are bound: what works on them, up to the model that is ready to run. The
  // weights have no values yet.
  absl::Status UseMemory(const ResolvedJob& job);
  // The model's buffers as weight files name them.
  std::vector<NamedBuffer> Buffers() const;
  kernels::StreamView compute() const { return compute_stream->view(); }
  kernels::StreamView comm() const { return comm_stream->view(); }
  ~TrainingState();  // waits for both streams before their memory goes
};

kernels::DType StorageDType(Storage storage);

}  // namespace muster::runtime
