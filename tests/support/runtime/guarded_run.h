#pragma once
// A small MoE job on all ranks of the test's world, trained step by step.
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "kernels/device/span.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {

class GuardedRun {
 public:
  explicit GuardedRun(const std::vector<std::string>& overrides, bool with_checkpoints = false,
                      kernels::StreamMode mode = kernels::StreamMode::kInline)
      : directory_(SharedTemporaryDirectory(parallel::TestWorld())), mode_(mode) {
    const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
    std::vector<std::string> all = {"train.steps=8",
                                    "train.global_batch_sequences=12",
                                    "schedule.microbatches=1",
                                    "goodput.peak=0.1",
                                    "train.sequence_length=16",
                                    "model.layers=2",
                                    "log.progress=false",
                                    "communication.bucket_megabytes=0.02",
                                    "evaluate.sequences=4",
                                    "model.moe.expert_ffn_hidden=24"};
    if (with_checkpoints) {  // of every step, however slow the disk is
      all.insert(all.end(), {"checkpoint.every_steps=1", "checkpoint.asynchronous=false"});
    }
    all.insert(all.end(), overrides.begin(), overrides.end());
    std::vector<ConfigProblem> problems;
    MUSTER_CHECK(LoadJob(path, all, parallel::TestWorld().size(), &job_, &problems))
        << Describe(problems, path);
    Start();
  }
  ~GuardedRun() {
    trainer_.reset();
    MUSTER_CHECK_OK(parallel::TestWorld().GatherText("").status());
    if (parallel::TestWorld().rank() == 0) std::filesystem::remove_all(directory_);
  }
  // As after a restart, without the checkpoints of the attempt before.
  void Start() {
    trainer_.reset();
    auto trainer = Trainer::Create(job_, parallel::TestWorld(),
                                   {.run_directory = directory_,
                                    .attempt = attempt_++,
                                    .process_start_ns = kernels::MonotonicNs(),
                                    .compute_mode = mode_});
    MUSTER_CHECK_OK(trainer.status());
    trainer_ = *std::move(trainer);
  }
  const ResolvedJob& job() const { return job_; }
  Trainer& trainer() { return *trainer_; }
  const StepMetrics& Step(int64_t step) {
    MUSTER_CHECK_OK(trainer_->Step(step));
    return trainer_->last_step();
  }
  uint64_t WeightsHash() {
    const TrainingState& state = trainer_->state();
    state.gather->Finish(state.compute());
    MUSTER_CHECK_OK(state.compute().Synchronize());
    uint64_t hash = 0;
    for (const parallel::Parameter& parameter : *state.parameters) {
      hash = kernels::Hash64(parameter.weight.data, static_cast<size_t>(parameter.weight.bytes()),
                             hash);
    }
    return hash;
  }
  // Of all that this rank updates.
  uint64_t StateHash() {
    const TrainingState& state = trainer_->state();
    state.gather->Finish(state.compute());
    MUSTER_CHECK_OK(state.compute().Synchronize());
    uint64_t hash = 0;
    for (const parallel::OptimizerSlice& slice : state.optimizer->Slices()) {
      for (const kernels::TensorView& part :
           {slice.weight, slice.master, slice.moment1, slice.moment2}) {
        hash = kernels::Hash64(part.data, static_cast<size_t>(part.bytes()), hash);
      }
    }
    return hash;
  }
  const std::string& directory() const { return directory_; }

 private:
  const std::string directory_;
  const kernels::StreamMode mode_;
  ResolvedJob job_;
  int attempt_ = 0;
  std::unique_ptr<Trainer> trainer_;
};

// The highest rank, as text.
inline std::string Last() { return std::to_string(parallel::TestWorld().size() - 1); }

}  // namespace muster::runtime
