#include "kernels/ops/topk_route.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

// Added to the sum by which weights are normalised: scores that all underflow give 0, not NaN.
constexpr double kTiny = 1e-20;

// softmax(logits) and the log of the sum of exponentials.
template <typename A>
A Softmax(const A* logits, A* out, int64_t n) {
  const A max = *std::max_element(logits, logits + n);
  A sum = 0;
  for (int64_t e = 0; e < n; ++e) {
    out[e] = std::exp(logits[e] - max);
    sum += out[e];
  }
  for (int64_t e = 0; e < n; ++e) out[e] /= sum;
  return max + std::log(sum);
}

// Chooses the best `count` of values[0, n) that are not yet taken, ties to the lower index, in
// falling order; marks them taken. A NaN never breaks it: `count` distinct indices come out.
template <typename A, typename Index>
void TakeBest(const A* values, uint8_t* taken, int64_t n, int64_t count, Index* chosen) {
  for (int64_t j = 0; j < count; ++j) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (taken[i] == 0 && (best < 0 || values[i] > values[best])) best = i;
    }
    taken[best] = 1;
    chosen[j] = static_cast<Index>(best);
  }
}

// One token's choice; its buffers serve all tokens of a call.
template <typename A>
class Chooser {
 public:
  Chooser(const RouterOptions& options, int64_t num_experts)
      : options_(options),
        values_(static_cast<size_t>(num_experts)),
        group_values_(static_cast<size_t>(options.groups)),
        best_groups_(static_cast<size_t>(options.group_top_k)),
        taken_(static_cast<size_t>(num_experts)),
        group_taken_(static_cast<size_t>(options.groups)) {}

  void Choose(const A* scores, const A* bias, int32_t* experts) {
    const int64_t num_experts = static_cast<int64_t>(values_.size());
    for (int64_t e = 0; e < num_experts; ++e) {
      values_[static_cast<size_t>(e)] = scores[e] + (bias != nullptr ? bias[e] : A{0});
    }
    std::fill(taken_.begin(), taken_.end(), uint8_t{0});
    if (options_.groups > 1) ExcludeOtherGroups();
    TakeBest(values_.data(), taken_.data(), num_experts, options_.top_k, experts);
  }

 private:
  // Marks as taken all experts outside the best groups. A group's value is the sum of its two best
  // (of its one, if it has only one).
  void ExcludeOtherGroups() {
    const size_t size = values_.size() / group_values_.size();
    for (size_t g = 0; g < group_values_.size(); ++g) {
      const A* values = values_.data() + g * size;
      size_t best = 0;
      for (size_t i = 1; i < size; ++i) {
        if (values[i] > values[best]) best = i;
      }
      group_values_[g] = values[best];
      if (size == 1) continue;
      size_t second = best == 0 ? 1 : 0;
      for (size_t i = 0; i < size; ++i) {
        if (i != best && values[i] > values[second]) second = i;
      }
      group_values_[g] += values[second];
    }
    std::fill(group_taken_.begin(), group_taken_.end(), uint8_t{0});
    TakeBest(group_values_.data(), group_taken_.data(), options_.groups, options_.group_top_k,
             best_groups_.data());
    std::fill(taken_.begin(), taken_.end(), uint8_t{1});
    for (const int32_t g : best_groups_) {
      std::fill_n(taken_.begin() + static_cast<int64_t>(g) * static_cast<int64_t>(size), size,
                  uint8_t{0});
    }
  }

  const RouterOptions& options_;
  std::vector<A> values_, group_values_;
  std::vector<int32_t> best_groups_;
  std::vector<uint8_t> taken_, group_taken_;
};

// What the chosen scores are divided by before they are scaled.
template <typename A>
A Divisor(const RouterOptions& options, const A* scores, const int32_t* experts) {
  if (!options.normalise) return A{1};
  A sum = static_cast<A>(kTiny);
  for (int j = 0; j < options.top_k; ++j) sum += scores[experts[j]];
  return sum;
}

template <typename A>
void Forward(const TopkRouteForwardArgs& args) {
  const RouterOptions& options = args.options;
  const int64_t num_tokens = args.logits.shape[0], num_experts = args.logits.shape[1];
  const A* bias = args.bias ? args.bias.as<A>() : nullptr;
  Chooser<A> chooser(options, num_experts);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const A* logits = args.logits.as<A>() + t * num_experts;
    A* scores = args.scores.as<A>() + t * num_experts;
    if (options.score == RouterScore::kSoftmax) {
      Softmax(logits, scores, num_experts);
    } else {
      for (int64_t e = 0; e < num_experts; ++e) scores[e] = A{1} / (A{1} + std::exp(-logits[e]));
    }
    int32_t* experts = args.experts.as<int32_t>() + t * options.top_k;
    A* weights = args.weights.as<A>() + t * options.top_k;
    chooser.Choose(scores, bias, experts);
    const A factor = static_cast<A>(options.scale) / Divisor(options, scores, experts);
    for (int j = 0; j < options.top_k; ++j) weights[j] = scores[experts[j]] * factor;
  }
}

// Adds to d_scores the gradient of the combine weights w_j = scale s_j / S:
//   normalised: ds_j = scale / S (dw_j - sum_i dw_i s_i / S);   else: ds_j = scale dw_j.
template <typename A>
void AddWeightGradient(const RouterOptions& options, const A* scores, const int32_t* experts,
                       const A* d_weights, A* d_scores) {
  const A divisor = Divisor(options, scores, experts);
  const A factor = static_cast<A>(options.scale) / divisor;
  A mean = 0;
  if (options.normalise) {
    for (int j = 0; j < options.top_k; ++j) mean += d_weights[j] * (scores[experts[j]] / divisor);
  }
  for (int j = 0; j < options.top_k; ++j) d_scores[experts[j]] += factor * (d_weights[j] - mean);
}

// The gradient of one token; `fractions` (of tokens per expert, summing to k) may be null: no
// auxiliary loss. Its buffers serve all tokens of a call.
template <typename A>
class TokenGradient {
 public:
  explicit TokenGradient(const TopkRouteBackwardArgs& args)
      : args_(args), probabilities_(static_cast<size_t>(args.logits.shape[1])) {}

  void Run(int64_t token, const A* fractions) {
    const RouterOptions& options = args_.options;
    const int64_t num_experts = args_.logits.shape[1];
    const A* logits = args_.logits.as<A>() + token * num_experts;
    const A* scores = args_.scores.as<A>() + token * num_experts;
    A* gradient = args_.d_logits.as<A>() + token * num_experts;  // first of the scores
    std::fill_n(gradient, num_experts, A{0});
    AddWeightGradient(options, scores, args_.experts.as<int32_t>() + token * options.top_k,
                      args_.d_weights.as<A>() + token * options.top_k, gradient);
    if (fractions != nullptr) AddAuxiliary(scores, fractions, gradient);
    ToLogits(scores, gradient);
    if (options.z_coefficient != 0) AddZ(logits, gradient);
  }
  double auxiliary_loss() const { return auxiliary_loss_; }
  double z_loss() const { return z_loss_; }

 private:
  // aux = c sum_e f_e p_e with p = s / sum s (a softmax sums to 1 already):
  //   ds_e = c (f_e - sum_i f_i p_i) / sum s,   for a softmax ds_e = c f_e.
  void AddAuxiliary(const A* scores, const A* fractions, A* gradient) {
    const RouterOptions& options = args_.options;
    const int64_t num_experts = args_.logits.shape[1];
    const double coefficient = args_.loss_scale * double{options.aux_coefficient} *
                               static_cast<double>(num_experts) / options.top_k;
    const bool normalised = options.score == RouterScore::kSoftmax;
    A sum = 1;
    if (!normalised) {
      sum = static_cast<A>(kTiny);
      for (int64_t e = 0; e < num_experts; ++e) sum += scores[e];
    }
    A mean = 0;
    for (int64_t e = 0; e < num_experts; ++e) mean += fractions[e] * (scores[e] / sum);
    auxiliary_loss_ += coefficient * static_cast<double>(mean);
    const A factor = static_cast<A>(coefficient) / sum, shift = normalised ? A{0} : mean;
    for (int64_t e = 0; e < num_experts; ++e) gradient[e] += factor * (fractions[e] - shift);
  }

  // From the gradient of the scores to that of the logits, in place.
  void ToLogits(const A* scores, A* gradient) const {
    const int64_t num_experts = args_.logits.shape[1];
    if (args_.options.score == RouterScore::kSigmoid) {
      for (int64_t e = 0; e < num_experts; ++e) gradient[e] *= scores[e] * (A{1} - scores[e]);
      return;
    }
    A mean = 0;
    for (int64_t e = 0; e < num_experts; ++e) mean += gradient[e] * scores[e];
    for (int64_t e = 0; e < num_experts; ++e) gradient[e] = scores[e] * (gradient[e] - mean);
  }

  // d lse^2 = 2 lse softmax(logits).
  void AddZ(const A* logits, A* gradient) {
    const int64_t num_experts = args_.logits.shape[1];
    const A lse = Softmax(logits, probabilities_.data(), num_experts);
    const double coefficient = args_.loss_scale * double{args_.options.z_coefficient};
    z_loss_ += coefficient * static_cast<double>(lse) * static_cast<double>(lse);
    const A factor = static_cast<A>(2 * coefficient) * lse;
    for (int64_t e = 0; e < num_experts; ++e) {
      gradient[e] += factor * probabilities_[static_cast<size_t>(e)];
    }
  }

  const TopkRouteBackwardArgs& args_;
  std::vector<A> probabilities_;
  double auxiliary_loss_ = 0, z_loss_ = 0;
};

// fractions[e] = scale * choices of expert e in tokens [begin, end).
template <typename A>
void CountFractions(const TensorView& experts, int64_t begin, int64_t end, A scale, A* fractions,
                    int64_t num_experts) {
  const int64_t top_k = experts.shape[1];
  std::fill_n(fractions, num_experts, A{0});
  for (int64_t choice = begin * top_k; choice < end * top_k; ++choice) {
    const int32_t expert = experts.as<int32_t>()[choice];
    MUSTER_CHECK(expert >= 0 && expert < num_experts)
        << "expert " << expert << " of " << num_experts;
    fractions[expert] += A{1};
  }
  for (int64_t e = 0; e < num_experts; ++e) fractions[e] *= scale;
}

template <typename A>
void Backward(const TopkRouteBackwardArgs& args) {
  const int64_t num_tokens = args.logits.shape[0], num_experts = args.logits.shape[1];
  const bool auxiliary = args.options.aux_coefficient != 0, own_counts = auxiliary && !args.load;
  const bool of_groups = args.load && args.load.rank() == 2;
  std::vector<A> counted(static_cast<size_t>(num_experts));
  const A* fractions = nullptr;
  if (auxiliary) fractions = own_counts ? counted.data() : args.load.as<A>();
  TokenGradient<A> gradient(args);
  for (int64_t t = 0; t < num_tokens; ++t) {
    if (own_counts && t % args.group_tokens == 0) {
      CountFractions(args.experts, t, t + args.group_tokens,
                     A{1} / static_cast<A>(args.group_tokens), counted.data(), num_experts);
    }
    const int64_t row = auxiliary && of_groups ? (args.first_token + t) / args.group_tokens : 0;
    gradient.Run(t, auxiliary ? fractions + row * num_experts : nullptr);
  }
  args.losses.as<double>()[0] += gradient.auxiliary_loss();
  args.losses.as<double>()[1] += gradient.z_loss();
}

template <typename A>
void CountLoad(const GroupLoadArgs& args) {
  const int64_t num_groups = args.out.shape[0], num_experts = args.out.shape[1];
  for (int64_t g = 0; g < num_groups; ++g) {
    CountFractions(args.experts, g * args.group_tokens, (g + 1) * args.group_tokens,
                   static_cast<A>(args.scale), args.out.as<A>() + g * num_experts, num_experts);
  }
}

}  // namespace

void TopkRouteForward(const TopkRouteForwardArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.logits.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void TopkRouteBackward(const TopkRouteBackwardArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.logits.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

void GroupLoad(const GroupLoadArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.out.dtype, [&](auto tag) { CountLoad<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
