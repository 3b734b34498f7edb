#include "runtime/train/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/goodput/number_text.h"
#include "runtime/job/append_file.h"
#include "runtime/train/progress.h"
#include "runtime/train/tensorboard.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::ordered_json;

double WallSeconds() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double TokensPerSecond(const StepMetrics& metrics) {
  return metrics.step_seconds > 0 ? static_cast<double>(metrics.tokens) / metrics.step_seconds : 0;
}

std::string BitsOf(double value) { return kernels::HexDigits(std::bit_cast<uint64_t>(value)); }

TensorBoardWriter::Scalars ScalarsOf(const StepMetrics& metrics) {
  TensorBoardWriter::Scalars scalars = {
      {"train/loss", metrics.loss},
      {"train/grad_norm", metrics.grad_norm},
      {"train/learning_rate", metrics.learning_rate},
      {"train/skipped", metrics.skipped ? 1 : 0},
      {"speed/tokens_per_second", TokensPerSecond(metrics)},
      {"speed/step_seconds", metrics.step_seconds},
      {"speed/mfu", metrics.mfu},
      {"speed/hfu", metrics.hfu},
      {"speed/goodput", metrics.goodput},
  };
  for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
    const std::string name = parallel::Name(static_cast<parallel::TimeCategory>(c));
    scalars.emplace_back("step_seconds/" + name, metrics.breakdown_seconds[c]);
  }
  const std::vector<double>& imbalance = metrics.expert_imbalance;
  if (!imbalance.empty()) {
    const double mean =
        std::accumulate(imbalance.begin(), imbalance.end(), 0.0) / double(imbalance.size());
    scalars.emplace_back("moe/aux_loss", metrics.aux_loss);
    scalars.emplace_back("moe/z_loss", metrics.z_loss);
    scalars.emplace_back("moe/imbalance_mean", mean);
    scalars.emplace_back("moe/imbalance_max",
                         *std::max_element(imbalance.begin(), imbalance.end()));
    scalars.emplace_back("moe/dropped", static_cast<double>(metrics.dropped_tokens));
  }
  return scalars;
}

class FileMetricsWriter final : public MetricsWriter {
 public:
  absl::Status Open(const std::string& run_directory, const ResolvedJob& job,
                    const MetricsStart& start) {
    std::error_code error;
    std::filesystem::create_directories(run_directory, error);  // opening the files tells the error
    const auto lines = AppendFile::Start::kLines;
    ASSIGN_OR_RETURN(steps_, AppendFile::Open(run_directory + "/metrics.jsonl", lines));
    ASSIGN_OR_RETURN(evaluations_, AppendFile::Open(run_directory + "/evaluations.jsonl", lines));
    if (job.job.log().tensorboard()) {
      ASSIGN_OR_RETURN(tensorboard_, TensorBoardWriter::Create(run_directory + "/tensorboard"));
      if (start.attempt > 0) tensorboard_->BeginAgain(start.first_step, WallSeconds());
    }
    if (job.job.log().progress()) {
      progress_.emplace(STDOUT_FILENO, job.job.train().steps(), job.job.log().every_steps());
    }
    return absl::OkStatus();
  }

  void Step(const StepMetrics& metrics) override {
    steps_->Append(StepLine(metrics) + "\n");
    if (tensorboard_ != nullptr) {
      tensorboard_->Write(metrics.step, WallSeconds(), ScalarsOf(metrics));
    }
    if (progress_) progress_->Step(metrics);
  }

  void Evaluation(const EvaluationMetrics& metrics) override {
    evaluations_->Append(EvaluationLine(metrics) + "\n");
    if (tensorboard_ != nullptr) {
      tensorboard_->Write(metrics.step, WallSeconds(),
                          {{"validation/loss", metrics.validation_loss}});
    }
    if (progress_) {
      progress_->Line("evaluation at step " + std::to_string(metrics.step) + "  validation loss " +
                      Fixed(metrics.validation_loss, 4) + "  (unigram entropy " +
                      Fixed(metrics.unigram_entropy, 4) + ")");
    }
  }

 private:
  std::unique_ptr<AppendFile> steps_, evaluations_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
  std::optional<Progress> progress_;
};

}  // namespace

std::string StepLine(const StepMetrics& metrics) {
  Json line = {
      {"step", metrics.step},
      {"attempt", metrics.attempt},
      {"loss", metrics.loss},
      {"grad_norm", metrics.grad_norm},
      {"lr", metrics.learning_rate},
      {"tokens", metrics.tokens},
      {"tokens_per_second", TokensPerSecond(metrics)},
      {"step_seconds", metrics.step_seconds},
      {"mfu", metrics.mfu},
      {"mfu_full", metrics.mfu_full_attention},
      {"hfu", metrics.hfu},
      {"goodput", metrics.goodput},
      {"skipped", metrics.skipped},
      {"aux_loss", metrics.aux_loss},
      {"z_loss", metrics.z_loss},
      {"loss_bits", BitsOf(metrics.loss)},
      {"grad_norm_bits", BitsOf(metrics.grad_norm)},
  };
  Json& breakdown = line["breakdown"] = Json::object();
  for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
    breakdown[parallel::Name(static_cast<parallel::TimeCategory>(c))] =
        metrics.breakdown_seconds[c];
  }
  if (!metrics.expert_imbalance.empty()) {
    line["moe"] = {{"imbalance", metrics.expert_imbalance}, {"dropped", metrics.dropped_tokens}};
  }
  return line.dump();
}

std::string EvaluationLine(const EvaluationMetrics& metrics) {
  const Json line = {{"step", metrics.step},
                     {"attempt", metrics.attempt},
                     {"validation_loss", metrics.validation_loss},
                     {"validation_loss_bits", BitsOf(metrics.validation_loss)},
                     {"unigram_entropy", metrics.unigram_entropy}};
  return line.dump();
}

absl::StatusOr<std::unique_ptr<MetricsWriter>> MetricsWriter::Create(
    const std::string& run_directory, const ResolvedJob& job, const MetricsStart& start) {
  auto writer = std::make_unique<FileMetricsWriter>();
  RETURN_IF_ERROR(writer->Open(run_directory, job, start));
  return std::unique_ptr<MetricsWriter>(std::move(writer));
}

}  // namespace muster::runtime
