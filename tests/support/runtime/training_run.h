#pragma once
// A short training run inside a test: the job of a config file with overrides, on a given world.
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "parallel/comm/rendezvous.h"
#include "runtime/train/planned_matmuls.h"
#include "runtime/train/planned_memory.h"
#include "runtime/train/trainer.h"

namespace muster::runtime {

// A gradient of one parameter, as far as this rank has it reduced: elements of the global tensor.
struct GradientPiece {
  std::string global_name;
  int64_t begin = 0;  // flat index in the global tensor
  std::vector<float> values;
};

struct TrainingRun {
  std::vector<uint64_t> loss_bits, grad_norm_bits;  // by step
  std::vector<double> losses;
  std::vector<GradientPiece> first_gradients;  // after step 1
  std::vector<StepMetrics> metrics;
  double validation_loss = 0;
  size_t num_buckets = 0;
  int64_t arena_bytes = 0;  // what the run allocated on this rank
  PlannedMemory planned;    // what PlanMemory said of it
  // The products that this rank ran, and what PlanMatmuls said of them.
  std::set<kernels::MatmulKey> matmuls, planned_matmuls;
};

// Runs `steps` steps of `config` (below configs/jobs). All ranks of `world` call it. CHECK-fails
// on any error, with its message.
TrainingRun Train(parallel::World& world, const std::string& config,
                  const std::vector<std::string>& overrides, int64_t steps,
                  kernels::StreamMode compute_mode = kernels::StreamMode::kInline);

// A new directory below the system's temporary one, equal on all ranks of `world`.
std::string SharedTemporaryDirectory(parallel::World& world);

}  // namespace muster::runtime
