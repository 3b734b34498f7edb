#include "runtime/train/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "kernels/ops/cast.h"
#include "runtime/checkpoint/weights.h"
#include "runtime/input/tokenizer.h"
#include "runtime/job/config.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {
namespace {

// The run's job, laid out for one rank and one sequence.
absl::StatusOr<ResolvedJob> LoadForOneRank(const std::string& run_directory) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  if (!LoadResolvedJob(run_directory, &job, &problems)) {
    return absl::InvalidArgumentError(Describe(problems, run_directory));
  }
  job.mesh = {.dp = 1};
  job.microbatch_sequences = 1;
  job.job.clear_schedule();
  job.job.mutable_schedule()->set_microbatches(1);
  job.job.set_device(CPU);
  return job;
}

class Sampler {
 public:
  static absl::StatusOr<std::unique_ptr<Sampler>> Load(const std::string& run_directory) {
    auto sampler = std::make_unique<Sampler>();
    ASSIGN_OR_RETURN(sampler->job_, LoadForOneRank(run_directory));
    ASSIGN_OR_RETURN(sampler->state_, TrainingState::Build(sampler->job_, *sampler->world_));
    TrainingState& state = *sampler->state_;
    RETURN_IF_ERROR(LoadWeights(run_directory + "/weights", *state.parameters, state.Buffers(),
                                state.compute()));
    ASSIGN_OR_RETURN(sampler->logits_,
                     kernels::Tensor::Allocate(kernels::DType::kFloat32,
                                               {sampler->job_.job.model().vocab_size()}));
    return sampler;
  }

  // Logits of the token after `context`, of which the last S count.
  absl::StatusOr<const float*> NextLogits(const std::vector<int32_t>& context) {
    TrainingState& state = *state_;
    const int64_t length = job_.sequence_length;
    const int64_t used = std::min<int64_t>(length, static_cast<int64_t>(context.size()));
    auto* tokens = state.tokens.as<int32_t>();
    auto* positions = state.positions.as<int32_t>();
    std::fill_n(tokens, length, 0);
    std::copy(context.end() - used, context.end(), tokens);
    std::iota(positions, positions + length, 0);
    state.model->BeginStep(state.microbatches, 1, state.compute());
    ASSIGN_OR_RETURN(const kernels::TensorView logits, state.model->Logits(0, state.compute()));
    const kernels::TensorView last = logits.Slice(0, used - 1, used).Reshape({logits.shape[1]});
    kernels::Cast({.x = last, .out = logits_.view()}, state.compute());
    RETURN_IF_ERROR(state.compute().Synchronize());
    return logits_.view().as<float>();
  }

  int64_t vocab_size() const { return job_.job.model().vocab_size(); }

 private:
  ResolvedJob job_;
  std::unique_ptr<parallel::World> world_ = parallel::World::Alone();
  std::unique_ptr<TrainingState> state_;
  kernels::Tensor logits_;
};

}  // namespace

int64_t ChooseToken(const float* logits, int64_t vocab_size, const SampleOptions& options,
                    double draw) {
  std::vector<int64_t> order(static_cast<size_t>(vocab_size));
  std::iota(order.begin(), order.end(), 0);
  const int64_t kept = options.temperature <= 0 ? 1
                       : options.top_k > 0      ? std::min<int64_t>(options.top_k, vocab_size)
                                                : vocab_size;
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  if (kept == 1) return order[0];
  std::vector<double> cumulative;
  double sum = 0;
  for (int64_t i = 0; i < kept; ++i) {
    const auto index = static_cast<size_t>(i);
    sum += std::exp((logits[order[index]] - logits[order[0]]) / options.temperature);
    cumulative.push_back(sum);
  }
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), draw * sum);
  const auto last = static_cast<int64_t>(cumulative.size()) - 1;
  return order[static_cast<size_t>(std::min<int64_t>(last, chosen - cumulative.begin()))];
}

absl::StatusOr<std::string> SampleText(const std::string& run_directory,
                                       const SampleOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                   Tokenizer::Load(run_directory + "/tokenizer.model"));
  ASSIGN_OR_RETURN(std::unique_ptr<Sampler> sampler, Sampler::Load(run_directory));
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenizer->Encode(options.prompt));
  if (tokens.empty()) {
    return absl::InvalidArgumentError("the prompt holds no token; give --prompt some text");
  }
  const kernels::PhiloxKey key = kernels::MakePhiloxKey(options.seed, "sample");
  const size_t prompt_size = tokens.size();
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    ASSIGN_OR_RETURN(const float* logits, sampler->NextLogits(tokens));
    const double draw =
        kernels::UniformFromBits(kernels::Philox(key, static_cast<uint64_t>(i)).v[0]);
    tokens.push_back(
        static_cast<int32_t>(ChooseToken(logits, sampler->vocab_size(), options, draw)));
  }
  return tokenizer->Decode({tokens.begin() + static_cast<int64_t>(prompt_size), tokens.end()});
}

}  // namespace muster::runtime
