#pragma once
// What a step leaves behind on rank 0: a line in metrics.jsonl, TensorBoard events, and the
// progress line. Fields of metrics.jsonl are a contract (docs/guide/files.md).
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/time_category.h"
#include "runtime/job/config.h"

namespace muster::runtime {

struct StepMetrics {
  int64_t step = 0;  // from 1: updates done
  int attempt = 0;
  double loss = 0, aux_loss = 0, z_loss = 0;  // loss: cross-entropy, mean over valid tokens, nats
  double grad_norm = 0, learning_rate = 0;
  bool skipped = false;                    // its gradient was not finite, or its loss a spike
  int64_t tokens = 0;                      // of the global batch
  double step_seconds = 0;                 // wall, mean over ranks
  double mfu = 0, mfu_full_attention = 0;  // both attention conventions
  double hfu = 0;                          // causal, with what is recomputed
  double goodput = 0;                      // of the run so far, this attempt
  // Mean over ranks; sums to step_seconds.
  std::array<double, parallel::kNumTimeCategories> breakdown_seconds{};
  // MoE, per layer: max over experts of load / mean load; dropped choices.
  std::vector<double> expert_imbalance;
  int64_t dropped_tokens = 0;
};

struct EvaluationMetrics {
  int64_t step = 0;
  double validation_loss = 0, unigram_entropy = 0;
  int attempt = 0;
};

// A line of metrics.jsonl or evaluations.jsonl, without the newline. Numbers have the digits that
// restore their bits; one that is not finite is null, and its *_bits field still tells which.
std::string StepLine(const StepMetrics& metrics);
std::string EvaluationLine(const EvaluationMetrics& metrics);

// What the attempt that writes begins with.
struct MetricsStart {
  int attempt = 0;
  int64_t first_step = 1;
};

// Appends to metrics.jsonl (each step), evaluations.jsonl and tensorboard/ in the run directory, a
// line at a time, and prints progress to stdout as the job's Log says. A line that a crash cut
// short is cut off first. A disk that fails meanwhile stops nothing (runtime/job/append_file.h).
class MetricsWriter {
 public:
  // Errors: the run directory cannot be written.
  static absl::StatusOr<std::unique_ptr<MetricsWriter>> Create(const std::string& run_directory,
                                                               const ResolvedJob& job,
                                                               const MetricsStart& start = {});
  virtual ~MetricsWriter() = default;
  virtual void Step(const StepMetrics& metrics) = 0;
  virtual void Evaluation(const EvaluationMetrics& metrics) = 0;
};

}  // namespace muster::runtime
