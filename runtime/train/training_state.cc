#include "runtime/train/training_state.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/cpu_threads.h"
#include "models/uneven_work.h"
#include "parallel/comm/time_category.h"
#include "parallel/dp/copy_engines.h"
#include "runtime/job/job_rules.h"
#include "runtime/job/pipeline.h"
#include "runtime/train/agreed_matmuls.h"
#include "runtime/train/planned_matmuls.h"
#include "runtime/train/start_times.h"

namespace muster::runtime {
namespace {

using kernels::ArenaPlan;
using kernels::DType;
using kernels::Lifetime;
using kernels::StreamMode;
using parallel::Axis;

models::StageShape ShapeOf(const ResolvedJob& job, const PipelinePlan& pipeline) {
  models::StageShape shape;
  shape.sequences = job.microbatch_sequences;
  shape.sequence_length = job.sequence_length / job.mesh.cp;
  shape.deterministic_attention = job.job.precision().deterministic_attention();
  shape.attention_kernel = AttentionKernelOf(job.job.precision());
  shape.gather_context = job.job.mesh().context_exchange() == ALL_GATHER;
  shape.num_microbatches = job.job.schedule().microbatches();
  if (job.job.mesh().sequence_parallel()) shape.stream_ranks = job.mesh.tp;
  shape.dtype = StorageDType(job.job.precision().compute());
  shape.split_backward = parallel::SplitsBackward(pipeline.schedule);
  const RecomputeConfig& recompute = job.job.recompute();
  shape.recompute = {.attention = recompute.attention(),
                     .mlp = recompute.mlp(),
                     .moe = recompute.moe(),
                     .norm = recompute.norm(),
                     .block = recompute.block()};
  // Each chunk of the output projection reads and writes the gradient of its weight, in fp32: few
  // chunks save more on a device than they cost of its memory.
  if (job.job.device() == CUDA) shape.logits_bytes = int64_t{2} << 30;
  return shape;
}

bool UsesCopyEngines(const Communication& communication) {
  return communication.nccl().cta_policy() == ZERO;
}

// The stages that pipeline rank `rank` holds, in the order of the forward.
std::vector<models::StageSpec> StagesOf(const PipelinePlan& pipeline, int rank) {
  std::vector<models::StageSpec> stages;
  const std::vector<int>& ranks = pipeline.facts.stage_ranks;
  int first_layer = 0;
  for (size_t stage = 0; stage < ranks.size(); ++stage) {
    const int num_layers = pipeline.layers[stage];
    if (ranks[stage] == rank) {
      stages.push_back({.stage = static_cast<int>(stage),
                        .first_layer = first_layer,
                        .num_layers = num_layers,
                        .first = stage == 0,
                        .last = stage + 1 == ranks.size(),
                        .num_slots = pipeline.facts.stage_slots[stage],
                        .num_gradient_slots = pipeline.facts.stage_gradient_slots[stage],
                        .tie_parts = ranks.front() != ranks.back()});
    }
    first_layer += num_layers;
  }
  return stages;
}

// Along these the ranks of a job exchange nothing. Stages talk by channels of their own, dense
// replicas over dp and cp together; all ranks of a stage are replicas only of what tp does not cut.
std::set<Axis> SilentAxes(const ResolvedJob& job) {
  std::set<Axis> silent = {Axis::kData, Axis::kPipeline};
  if (job.mesh.tp == 1) silent.insert(Axis::kStage);
  if (!job.job.model().has_moe()) {
    silent.insert({Axis::kExpert, Axis::kExpertTensor, Axis::kExpertData});
  }
  return silent;
}

// Plans the rank's part of the schedule and opens its channels to other stages.
absl::Status OpenPipeline(const PipelinePlan& pipeline, bool tied, parallel::World& world,
                          TrainingState& state) {
  const int rank = state.mesh->coordinates().pp;
  const parallel::ScheduleFacts& facts = pipeline.facts;
  const auto plan_first =
      state.device.type == kernels::DeviceType::kCuda ? parallel::PlanOpening : parallel::PlanRun;
  state.training = parallel::PlanRun(pipeline.schedule, facts.channels, rank);
  state.first_training = plan_first(pipeline.schedule, facts.channels, rank);
  if (pipeline.schedule.size() > 1) {
    state.evaluation_microbatches = parallel::NumMicrobatches(pipeline.schedule);
  }
  const parallel::Schedule evaluation =
      parallel::ForwardOnly(pipeline.schedule, state.evaluation_microbatches);
  RETURN_IF_ERROR(parallel::CheckBuffers(evaluation, facts));
  state.evaluation = parallel::PlanRun(evaluation, facts.channels, rank);
  state.first_evaluation = plan_first(evaluation, facts.channels, rank);
  ASSIGN_OR_RETURN(state.channels,
                   parallel::Channels::Create(facts.channels, facts.buffers, world, *state.mesh));
  if (tied) {
    ASSIGN_OR_RETURN(state.tied_weight,
                     parallel::TiedWeight::Create(facts.stage_ranks.front(),
                                                  facts.stage_ranks.back(), world, *state.mesh));
  }
  return absl::OkStatus();
}

// The tensors through which the trainer and the device exchange a step's input and facts.
void PlanExchange(const models::StageShape& shape, TrainingState& state) {
  const kernels::Shape batch{shape.num_microbatches, shape.tokens()};
  ArenaPlan& plan = state.plan;
  plan.Add(&state.tokens, "batch.tokens", DType::kInt32, batch, Lifetime::kPersistent);
  plan.Add(&state.targets, "batch.targets", DType::kInt32, batch, Lifetime::kPersistent);
  plan.Add(&state.positions, "batch.positions", DType::kInt32, batch, Lifetime::kPersistent);
  plan.Add(&state.step_sums, "step.sums", DType::kFloat64, {StepSums::kSize},
           Lifetime::kPersistent);
}

void CutIntoMicrobatches(const models::StageShape& shape, TrainingState& state) {
  const kernels::Shape tokens{shape.tokens()};
  for (int64_t m = 0; m < shape.num_microbatches; ++m) {
    state.microbatches.push_back({state.tokens.Slice(0, m, m + 1).Reshape(tokens),
                                  state.targets.Slice(0, m, m + 1).Reshape(tokens),
                                  state.positions.Slice(0, m, m + 1).Reshape(tokens)});
  }
}

absl::Status MakeHostSides(TrainingState& state) {
  const auto allocate = [&](int64_t bytes, kernels::DeviceBuffer* buffer) {
    absl::StatusOr<kernels::DeviceBuffer> host =
        kernels::DeviceBuffer::AllocateHost(state.device, bytes);
    if (host.ok()) *buffer = *std::move(host);
    return host.status();
  };
  RETURN_IF_ERROR(allocate(state.step_sums.bytes(), &state.host_sums));
  RETURN_IF_ERROR(allocate(state.clip->facts().norm.bytes(), &state.host_norm));
  RETURN_IF_ERROR(allocate(state.model->facts().expert_load.bytes(), &state.host_load));
  RETURN_IF_ERROR(allocate(state.model->facts().expert_rows.bytes(), &state.host_rows));
  for (kernels::DeviceBuffer& batch : state.host_batches) {
    RETURN_IF_ERROR(allocate(3 * state.tokens.bytes(), &batch));
  }
  return absl::OkStatus();
}

absl::Status ChooseMatmuls(const ResolvedJob& job, parallel::World& world,
                           const std::string& run_directory, TrainingState& state) {
  if (state.device.type == kernels::DeviceType::kCpu) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::set<kernels::MatmulKey> wanted, PlanMatmuls(job, world.rank()));
  ASSIGN_OR_RETURN(const std::unique_ptr<kernels::MatmulChooser> chooser,
                   kernels::MakeMatmulChooser(state.compute()));
  const MatmulFiles files = {
      .of_run = run_directory.empty() ? "" : run_directory + "/matmul_algorithms.txt",
      .of_user = UsersMatmulFile(std::getenv("MUSTER_MATMUL_CACHE"), std::getenv("XDG_CACHE_HOME"),
                                 std::getenv("HOME"))};
  return AgreeOnMatmuls(wanted, chooser.get(), files, world);
}

absl::Status MakeStreams(StreamMode compute_mode, TrainingState& state) {
  const kernels::Device device = state.device;
  const bool cpu = device.type == kernels::DeviceType::kCpu;
  ASSIGN_OR_RETURN(
      kernels::Stream compute,
      kernels::Stream::Create(device, cpu ? compute_mode : StreamMode::kQueue, "compute"));
  ASSIGN_OR_RETURN(kernels::Stream comm, kernels::Stream::Create(device, StreamMode::kQueue, "comm",
                                                                 kernels::StreamPriority::kHigh));
  state.compute_stream = std::make_unique<kernels::Stream>(std::move(compute));
  state.comm_stream = std::make_unique<kernels::Stream>(std::move(comm));
  ASSIGN_OR_RETURN(state.timeline,
                   kernels::Timeline::Create(state.compute(), models::kNumTimelineCategories));
  return absl::OkStatus();
}

}  // namespace

DType StorageDType(Storage storage) {
  switch (storage) {
    case fp32:
      return DType::kFloat32;
    case bf16:
      return DType::kBFloat16;
    case fp64:
      return DType::kFloat64;
  }
  return DType::kFloat32;
}

std::vector<NamedBuffer> TrainingState::Buffers() const {
  std::vector<NamedBuffer> buffers;
  for (const models::Gpt::Buffer& buffer : model->Buffers()) {
    buffers.push_back({buffer.global_name, buffer.tensor});
  }
  return buffers;
}

TrainingState::~TrainingState() {
  channels.reset();
  for (const auto& stream : {comm_stream.get(), compute_stream.get()}) {
    if (stream == nullptr) continue;
    const absl::Status status = stream->view().Synchronize();
    if (!status.ok()) kernels::Log(kernels::Severity::kError, std::string(status.message()));
  }
}

absl::StatusOr<std::unique_ptr<TrainingState>> TrainingState::Plan(const ResolvedJob& job,
                                                                   parallel::World& world,
                                                                   kernels::Device device,
                                                                   StreamMode compute_mode) {
  auto state = std::make_unique<TrainingState>();
  state->device = device;
  RETURN_IF_ERROR(MakeStreams(compute_mode, *state));
  ASSIGN_OR_RETURN(state->mesh,
                   parallel::Mesh::Create(world, job.mesh, state->device, SilentAxes(job)));

  std::vector<std::string> problems;
  const PipelinePlan pipeline = PlanPipeline(job.job, job.mesh.pp, &problems);
  if (!problems.empty()) return absl::FailedPreconditionError(problems.front());
  const models::ModelConfig& config = job.job.model();
  RETURN_IF_ERROR(OpenPipeline(pipeline, config.tied_embeddings(), world, *state));
  state->shape = ShapeOf(job, pipeline);
  const models::StageShape& shape = state->shape;
  state->parameters = std::make_unique<parallel::ParameterList>(*state->mesh);
  state->model = models::Gpt::Create(config, shape, *state->mesh, *state->parameters,
                                     StagesOf(pipeline, state->mesh->coordinates().pp));
  state->cost = models::CostOf(config, job.sequence_length, shape.recompute);

  const Communication& communication = job.job.communication();
  const int zero_level = job.job.zero().level();
  const Optimizer& optimizer = job.job.optimizer();
  state->layout = parallel::PlanBuckets(
      *state->parameters, static_cast<int64_t>(communication.bucket_megabytes() * 1e6),
      kernels::AccumulatorDType(shape.dtype));
  ArenaPlan& plan = state->plan;
  state->buckets = std::make_unique<parallel::BucketStorage>(
      state->layout, shape.dtype, plan, zero_level, UsesCopyEngines(communication));
  state->clip = std::make_unique<parallel::GradientClip>(*state->buckets, *state->mesh,
                                                         optimizer.clip_norm(), plan);
  state->optimizer = std::make_unique<parallel::ShardedAdamW>(
      *state->buckets, *state->parameters, zero_level,
      parallel::AdamWOptions{.beta1 = static_cast<float>(optimizer.beta1()),
                             .beta2 = static_cast<float>(optimizer.beta2()),
                             .epsilon = static_cast<float>(optimizer.epsilon()),
                             .weight_decay = static_cast<float>(optimizer.weight_decay()),
                             .digests = job.job.safety().state_check_every() > 0},
      plan);
  if (job.job.safety().replica_check_every() > 0 || job.job.safety().replay_every() > 0) {
    state->digests = std::make_unique<parallel::BucketDigests>(state->layout, plan);
  }
  state->model->PlanMemory(plan);
  state->channels->PlanMemory(plan, {shape.stream_tokens(), config.hidden()}, shape.dtype);
  PlanExchange(shape, *state);
  return state;
}

absl::Status TrainingState::UseMemory(const ResolvedJob& job) {
  buckets->Bind(*parameters);
  CutIntoMicrobatches(shape, *this);
  if (UsesCopyEngines(job.job.communication()) && !comm().dry()) {
    RETURN_IF_ERROR(parallel::MoveBucketsByCopyEngines(*buckets, *mesh));
  }
  const parallel::DataParallelOptions options{.zero_level = job.job.zero().level(),
                                              .overlap = job.job.communication().overlap()};
  ASSIGN_OR_RETURN(reducer, parallel::BucketReducer::Create(*buckets, *mesh, options, comm()));
  ASSIGN_OR_RETURN(gather, parallel::ParamGather::Create(*buckets, *mesh, options, comm()));
  hooks = std::make_unique<parallel::DataParallelHooks>(layout, *reducer, *gather);
  parallel::ParameterHooks* told = hooks.get();
  if (job.job.schedule().graphs()) {
    const auto settle = [gather = gather.get()](kernels::StreamView compute) {
      gather->Finish(compute);
    };
    passes = std::make_unique<RecordedPasses>(*model, *hooks, settle, layout);
    told = passes.get();
  }
  model->Initialise(*parameters, *told, compute());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TrainingState>> TrainingState::Build(
    const ResolvedJob& job, parallel::World& world, const TrainingOptions& options) {
  kernels::SetCpuThreads(kernels::CpuThreadsFor(world.local_size()));
  kernels::Device device;
  if (job.job.device() == CUDA) device = {kernels::DeviceType::kCuda, world.local_rank()};
  EnterPart(options.start, "communicators");
  ASSIGN_OR_RETURN(std::unique_ptr<TrainingState> state,
                   Plan(job, world, device, options.compute_mode));
  EnterPart(options.start, "algorithms");
  // While the device's memory is free and nothing runs there.
  RETURN_IF_ERROR(ChooseMatmuls(job, world, options.run_directory, *state));
  EnterPart(options.start, "memory");
  ASSIGN_OR_RETURN(state->arena, kernels::Arena::Allocate(state->plan, state->device));
  RETURN_IF_ERROR(state->UseMemory(job));
  RETURN_IF_ERROR(MakeHostSides(*state));
  EnterPart(options.start, "weights");
  const auto initialize = [&](const parallel::Parameter& parameter) {
    parallel::InitializeWeight(parameter, job.job.train().seed(), state->compute());
  };
  RETURN_IF_ERROR(state->gather->WriteWeights(initialize, state->compute()));
  state->optimizer->ReadWeights(state->compute());
  RETURN_IF_ERROR(state->compute().Synchronize());
  return state;
}

}  // namespace muster::runtime
