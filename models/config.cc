#include "models/config.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muster::models {
namespace {

// No model has more; what walks the layers of a config that is being checked ends.
constexpr int kMostLayers = 1 << 16;

// "1 or 4": the divisors of `number` next to `value`, which is none.
std::string NearestDivisors(int64_t number, int64_t value) {
  int64_t below = 0, above = 0;
  for (int64_t d = 1; d <= number; ++d) {
    if (number % d != 0) continue;
    if (d < value) below = d;
    if (d > value && above == 0) above = d;
  }
  if (below == 0) return absl::StrCat(above);
  if (above == 0) return absl::StrCat(below);
  return absl::StrCat(below, " or ", above);
}

class Rules {
 public:
  explicit Rules(std::vector<std::string>* problems) : problems_(problems) {}

  // Returns whether the field is within [least, most].
  bool Range(const char* field, int64_t value, int64_t least, int64_t most = INT32_MAX) {
    if (value >= least && value <= most) return true;
    Broken(field, value,
           most == INT32_MAX ? absl::StrCat("must be at least ", least)
                             : absl::StrCat("must be within ", least, " and ", most));
    return false;
  }
  void Divides(const char* field, int64_t value, const char* whole_name, int64_t whole) {
    if (whole % value == 0) return;
    Broken(field, value,
           absl::StrCat("must divide ", whole_name, " (", whole, "); the nearest that does is ",
                        NearestDivisors(whole, value)));
  }
  void Positive(const char* field, double value) {
    if (!(value > 0 && std::isfinite(value))) Broken(field, value, "must be positive and finite");
  }
  void NotNegative(const char* field, double value) {
    if (!(value >= 0 && std::isfinite(value)))
      Broken(field, value, "must be finite and not below 0");
  }
  template <typename Value>
  void Broken(const char* field, Value value, const std::string& rule) {
    problems_->push_back(absl::StrCat("model.", field, " is ", value, ": it ", rule));
  }

 private:
  std::vector<std::string>* problems_;
};

void CheckAttention(const ModelConfig& config, Rules& rules) {
  const bool heads = rules.Range("heads", config.heads(), 1);
  const bool kv_heads = rules.Range("kv_heads", config.kv_heads(), 1);
  if (heads && kv_heads) rules.Divides("kv_heads", config.kv_heads(), "heads", config.heads());
  if (!rules.Range("head_size", config.head_size(), 1)) return;
  if (config.position() == ROPE && config.head_size() % 2 != 0) {
    rules.Broken("head_size", config.head_size(),
                 absl::StrCat("must be even, as rotary positions pair channels; use ",
                              config.head_size() - 1, " or ", config.head_size() + 1));
  }
}

void CheckMoe(const ModelConfig& config, Rules& rules) {
  const MoeConfig& moe = config.moe();
  if (!rules.Range("moe.experts", moe.experts(), 1)) return;
  const bool top_k = rules.Range("moe.top_k", moe.top_k(), 1, moe.experts());
  rules.Range("moe.expert_ffn_hidden", moe.expert_ffn_hidden(), 1);
  rules.Range("moe.shared_experts", moe.shared_experts(), 0);
  const bool dense = rules.Range("moe.first_dense_layers", moe.first_dense_layers(), 0);
  const bool period = rules.Range("moe.layer_period", moe.layer_period(), 1);
  if (dense && period && config.layers() >= 1 && NumMoeLayers(config) == 0) {
    rules.Broken("moe.layer_period", moe.layer_period(),
                 absl::StrCat("leaves no MoE layer among the ", config.layers(), " layers after ",
                              moe.first_dense_layers(), " dense ones: lower one of them"));
  }
  if (rules.Range("moe.groups", moe.groups(), 1, moe.experts()) &&
      rules.Range("moe.group_top_k", moe.group_top_k(), 1, moe.groups())) {
    rules.Divides("moe.groups", moe.groups(), "moe.experts", moe.experts());
    const int64_t group_experts = moe.experts() / moe.groups();
    if (top_k && moe.experts() % moe.groups() == 0 &&
        moe.group_top_k() * group_experts < moe.top_k()) {
      rules.Broken("moe.group_top_k", moe.group_top_k(),
                   absl::StrCat("leaves ", moe.group_top_k() * group_experts,
                                " experts to choose top_k (", moe.top_k(), ") from; use at least ",
                                (moe.top_k() + group_experts - 1) / group_experts));
    }
  }
  rules.Positive("moe.weight_scale", moe.weight_scale());
  rules.NotNegative("moe.aux_loss", moe.aux_loss());
  rules.NotNegative("moe.z_loss", moe.z_loss());
  rules.NotNegative("moe.bias_update_rate", moe.bias_update_rate());
  rules.NotNegative("moe.capacity_factor", moe.capacity_factor());
}

}  // namespace

void FillDefaults(ModelConfig* config) {
  if (!config->has_kv_heads()) config->set_kv_heads(config->heads());
  if (!config->has_head_size() && config->heads() > 0) {
    config->set_head_size(config->hidden() / config->heads());
  }
  if (config->has_moe() && !config->moe().has_expert_ffn_hidden()) {
    config->mutable_moe()->set_expert_ffn_hidden(config->ffn_hidden());
  }
}

void CheckModel(const ModelConfig& config, std::vector<std::string>* problems) {
  Rules rules(problems);
  rules.Range("vocab_size", config.vocab_size(), 1);
  rules.Range("hidden", config.hidden(), 1);
  if (rules.Range("layers", config.layers(), 1)) {
    rules.Range("layers", config.layers(), 1, kMostLayers);
  }
  CheckAttention(config, rules);
  if (NumMoeLayers(config) < config.layers()) {
    rules.Range("ffn_hidden", config.ffn_hidden(), 1);
  }
  rules.Range("max_positions", config.max_positions(), 1);
  rules.Positive("norm_epsilon", config.norm_epsilon());
  rules.Positive("rope_theta", config.rope_theta());
  rules.Positive("init_std", config.init_std());
  if (config.has_moe()) CheckMoe(config, rules);
}

// What the tensor group divides, told in one sentence with the degrees that divide all of it.
static void CheckTensorDegree(const ModelConfig& config, int tp,
                              std::vector<std::string>* problems) {
  if (tp <= 1) return;
  std::vector<std::pair<const char*, int64_t>> divided = {{"model.heads", config.heads()},
                                                          {"model.kv_heads", config.kv_heads()}};
  if (NumMoeLayers(config) < config.layers()) {
    divided.push_back({"model.ffn_hidden", config.ffn_hidden()});
  }
  if (config.has_moe() && config.moe().shared_experts() > 0) {
    divided.push_back({"model.moe.shared_experts x model.moe.expert_ffn_hidden",
                       int64_t{config.moe().shared_experts()} * config.moe().expert_ffn_hidden()});
  }
  int64_t common = 0;
  std::string names;
  bool divides = true;
  for (const auto& [name, number] : divided) {
    if (number < 1) return;  // a problem of its own
    common = std::gcd(common, number);
    divides = divides && number % tp == 0;
    absl::StrAppend(&names, names.empty() ? "" : ", ", name, " (", number, ")");
  }
  if (!divides) {
    problems->push_back(absl::StrCat("mesh.tp is ", tp, ": it must divide ", names,
                                     "; the nearest that does is ", NearestDivisors(common, tp)));
  }
  if (config.vocab_size() < tp) {
    problems->push_back(absl::StrCat("mesh.tp is ", tp, ": it must be at most model.vocab_size, ",
                                     config.vocab_size()));
  }
}

void CheckModelOnMesh(const ModelConfig& config, const parallel::MeshDegrees& mesh,
                      std::vector<std::string>* problems) {
  CheckTensorDegree(config, mesh.tp, problems);
  if (!config.has_moe()) {
    for (const auto& [axis, degree] : {std::pair("ep", mesh.ep), std::pair("etp", mesh.etp)}) {
      if (degree == 1) continue;
      problems->push_back(
          absl::StrCat("mesh.", axis, " is ", degree, ": a model without experts needs 1"));
    }
    return;
  }
  const int hidden = config.moe().expert_ffn_hidden();
  if (mesh.etp > 0 && hidden > 0 && hidden % mesh.etp != 0) {
    problems->push_back(
        absl::StrCat("mesh.etp is ", mesh.etp, ": it must divide model.moe.expert_ffn_hidden (",
                     hidden, "); the nearest that does is ", NearestDivisors(hidden, mesh.etp)));
  }
  const int experts = config.moe().experts();
  if (mesh.ep > 0 && experts > 0 && experts % mesh.ep != 0) {
    problems->push_back(absl::StrCat("mesh.ep is ", mesh.ep, ": it must divide model.moe.experts (",
                                     experts, "); the nearest that does is ",
                                     NearestDivisors(experts, mesh.ep)));
  }
}

bool IsMoeLayer(const ModelConfig& config, int layer) {
  if (!config.has_moe()) return false;
  const int after_dense = layer - config.moe().first_dense_layers();
  const int period = config.moe().layer_period();
  return after_dense >= 0 && period >= 1 && (after_dense + 1) % period == 0;
}

int NumMoeLayers(const ModelConfig& config) {
  int count = 0;
  for (int layer = 0; layer < config.layers(); ++layer) count += IsMoeLayer(config, layer);
  return count;
}

}  // namespace muster::models
