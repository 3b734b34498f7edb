#include "tests/support/runtime/training_run.h"

#include <bit>
#include <cstdlib>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "kernels/ops/matmul_notes.h"
#include "runtime/checkpoint/ranges.h"

namespace muster::runtime {
namespace {

using parallel::Parameter;

// Elements [begin, end) of a local slice, whose gradients start at `values`.
void AddPieces(const Parameter& parameter, int64_t begin, int64_t end, const float* values,
               std::vector<GradientPiece>* pieces) {
  int64_t box_begin = 0;
  for (const parallel::Box& box : parameter.slice.boxes) {
    const int64_t box_end = box_begin + box.size.num_elements();
    const int64_t first = std::max(begin, box_begin), last = std::min(end, box_end);
    if (first < last) {
      for (const ElementRun& run :
           RunsOf({parameter.global_shape, box.begin, box.size, first - box_begin, last - first})) {
        const float* from = values + first - begin + run.local;
        pieces->push_back({parameter.global_name, run.global, {from, from + run.count}});
      }
    }
    box_begin = box_end;
  }
}

// On the host, wherever the state is.
kernels::Tensor GradientShard(const TrainingState& state, int bucket) {
  const kernels::TensorView shard = state.buckets->gradient_shard(bucket);
  auto host = kernels::Tensor::Allocate(shard.dtype, shard.shape);
  MUSTER_CHECK_OK(host.status());
  kernels::CopyAsync(host->view(), shard, state.compute());
  MUSTER_CHECK_OK(state.compute().Synchronize());
  return *std::move(host);
}

std::vector<GradientPiece> ReducedGradients(const TrainingState& state) {
  std::vector<GradientPiece> pieces;
  for (size_t b = 0; b < state.layout.buckets.size(); ++b) {
    const parallel::Bucket& bucket = state.layout.buckets[b];
    const int64_t begin = bucket.shard_begin(), end = begin + bucket.shard_elements();
    const kernels::Tensor shard = GradientShard(state, static_cast<int>(b));
    const auto* gradients = shard.view().as<float>();
    for (const parallel::BucketSlice& slice : bucket.slices) {
      const int64_t first = std::max(begin, slice.offset);
      const int64_t last = std::min(end, slice.offset + slice.count);
      if (first >= last) continue;
      const Parameter& parameter = (*state.parameters)[slice.parameter];
      AddPieces(parameter, first - slice.offset, last - slice.offset, gradients + first - begin,
                &pieces);
    }
  }
  return pieces;
}

}  // namespace

std::string SharedTemporaryDirectory(parallel::World& world) {
  std::string mine;
  if (world.rank() == 0) {
    std::string pattern = (std::filesystem::temp_directory_path() / "muster-test-XXXXXX").string();
    MUSTER_CHECK(mkdtemp(pattern.data()) != nullptr);
    mine = pattern;
  }
  const auto all = world.GatherText(mine);
  MUSTER_CHECK_OK(all.status());
  return all->front();
}

TrainingRun Train(parallel::World& world, const std::string& config,
                  const std::vector<std::string>& overrides, int64_t steps,
                  kernels::StreamMode compute_mode) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/" + config;
  std::vector<std::string> all = overrides;
  all.push_back("train.steps=" + std::to_string(steps));
  all.push_back("goodput.peak=0.1");
  all.push_back("log.progress=false");
  MUSTER_CHECK(LoadJob(path, all, world.size(), &job, &problems)) << Describe(problems, path);
  const std::string directory = SharedTemporaryDirectory(world);
  auto trainer = Trainer::Create(job, world,
                                 {.run_directory = directory,
                                  .process_start_ns = kernels::MonotonicNs(),
                                  .compute_mode = compute_mode});
  MUSTER_CHECK_OK(trainer.status());
  TrainingRun run;
  run.arena_bytes = (*trainer)->state().arena.bytes();
  const auto planned = PlanMemory(job, world.rank());
  MUSTER_CHECK_OK(planned.status());
  run.planned = *planned;
  const auto planned_matmuls = PlanMatmuls(job, world.rank());
  MUSTER_CHECK_OK(planned_matmuls.status());
  run.planned_matmuls = *planned_matmuls;
  auto notes = std::make_unique<kernels::MatmulNotes>();
  notes->Attach((*trainer)->state().compute(), /*dry=*/false);
  run.num_buckets = (*trainer)->state().layout.buckets.size();
  for (int64_t step = 1; step <= steps; ++step) {
    MUSTER_CHECK_OK((*trainer)->Step(step));
    MUSTER_CHECK_OK((*trainer)->Settle());
    const StepMetrics& metrics = (*trainer)->last_step();
    run.losses.push_back(metrics.loss);
    run.loss_bits.push_back(std::bit_cast<uint64_t>(metrics.loss));
    run.grad_norm_bits.push_back(std::bit_cast<uint64_t>(metrics.grad_norm));
    run.metrics.push_back(metrics);
    if (step == 1) run.first_gradients = ReducedGradients((*trainer)->state());
  }
  const auto validation = (*trainer)->Evaluate();
  MUSTER_CHECK_OK(validation.status());
  run.validation_loss = *validation;
  run.matmuls = notes->keys();
  notes.reset();
  trainer->reset();
  MUSTER_CHECK_OK(world.GatherText("").status());  // nobody writes there any more
  if (world.rank() == 0) std::filesystem::remove_all(directory);
  return run;
}

}  // namespace muster::runtime
