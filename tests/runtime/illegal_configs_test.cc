// Over a hundred illegal configs. Each is refused by what `muster check` does, offline: every
// broken rule is one problem that names its field and what would be legal, and there is no other
// problem.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/job/config.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

enum Model { kDense, kMoe };

struct Illegal {
  Model model;
  int ranks;
  const char* text;       // behind the model and the data
  const char* overrides;  // as after --set, apart by spaces
  // Of every problem: a part of it. A bar stands between parts of one problem.
  std::vector<const char*> problems;
};

// Heads 4, layers 4, sequences of 32 tokens, 8 of them in a batch.
std::string TextOf(const Illegal& config) {
  return absl::StrCat(
      "model { vocab_size: 64 hidden: 32 layers: 4 heads: 4 ffn_hidden: 64 max_positions: 32\n",
      config.model == kMoe ? "moe { experts: 8 expert_ffn_hidden: 24 }\n" : "",
      "}\ndata { synthetic {} }\n", config.text);
}

std::vector<std::string> ProblemsOf(const Illegal& config, bool* legal) {
  const ScratchDirectory directory;
  const std::string path = directory.Write("job.textproto", TextOf(config));
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  *legal = LoadJob(path, absl::StrSplit(config.overrides, ' ', absl::SkipEmpty()), config.ranks,
                   &job, &problems);
  std::vector<std::string> lines;
  for (const ConfigProblem& problem : problems) {
    lines.push_back(absl::StrCat(problem.where, ": ", problem.message));
  }
  return lines;
}

bool HasAllParts(const std::string& problem, const char* parts) {
  for (const absl::string_view part : absl::StrSplit(parts, '|')) {
    if (problem.find(std::string(part)) == std::string::npos) return false;
  }
  return true;
}

const std::vector<Illegal>& Configs() {
  static const std::vector<Illegal> configs = {
      {kMoe, 1, "schedule { graphs: true }", "", {"schedule.graphs is true|a router decided"}},
      {kDense,
       4,
       "schedule { graphs: true } mesh { tp: 2 } zero { level: 2 }",
       "",
       {"schedule.graphs|other ranks|mesh.tp, mesh.cp and mesh.pp of 1",
        "schedule.graphs|no fixed place|zero.level 0 or 1"}},
      // Ranges.
      {kDense, 1, "", "train.steps=0", {"train.steps is 0|at least 1"}},
      {kDense, 1, "", "train.steps=-7", {"train.steps is -7|at least 1"}},
      {kDense, 1, "", "train.global_batch_sequences=0", {"global_batch_sequences is 0|at least 1"}},
      {kDense, 1, "", "train.sequence_length=0", {"train.sequence_length is 0|at least 1"}},
      {kDense, 1, "", "train.sequence_length=33", {"is 33|at most model.max_positions, 32"}},
      {kDense, 1, "", "train.max_seconds=-1", {"train.max_seconds is -1|at least 0"}},
      {kDense,
       1,
       "",
       "data.synthetic.tokens=1",
       {"tokens is 1|at least 2", "tokens is 1|at least train.sequence_length + 1, 33"}},
      {kDense, 1, "", "data.synthetic.tokens=32", {"data.synthetic.tokens is 32|at least|33"}},
      {kDense, 1, "", "optimizer.learning_rate=0", {"learning_rate is 0|greater than 0"}},
      {kDense, 1, "", "optimizer.learning_rate=nan", {"learning_rate is nan|finite"}},
      {kDense, 1, "", "optimizer.learning_rate=inf", {"learning_rate is inf|finite"}},
      {kDense, 1, "", "optimizer.min_learning_rate_ratio=2", {"ratio is 2|at most 1"}},
      {kDense, 1, "", "optimizer.warmup_steps=-1", {"warmup_steps is -1|at least 0"}},
      {kDense, 1, "", "optimizer.decay_steps=-1", {"decay_steps is -1|at least 0"}},
      {kDense,
       1,
       "",
       "optimizer.warmup_steps=9 optimizer.decay_steps=8",
       {"warmup_steps is 9|at most optimizer.decay_steps, 8"}},
      {kDense, 1, "", "optimizer.beta1=1", {"beta1 is 1|below 1"}},
      {kDense, 1, "", "optimizer.beta2=-0.5", {"beta2 is -0.5|at least 0"}},
      {kDense, 1, "", "optimizer.epsilon=0", {"epsilon is 0|greater than 0"}},
      {kDense, 1, "", "optimizer.weight_decay=-0.1", {"weight_decay is -0.1|at least 0"}},
      {kDense, 1, "", "optimizer.clip_norm=-1", {"clip_norm is -1|at least 0"}},
      {kDense, 1, "", "schedule.microbatches=0", {"microbatches is 0|at least 1"}},
      {kDense, 1, "", "schedule.virtual_stages=0", {"virtual_stages is 0|at least 1"}},
      {kDense, 1, "", "zero.level=4", {"zero.level is 4|at most 3"}},
      {kDense, 1, "", "zero.level=-1", {"zero.level is -1|at least 0"}},
      {kDense, 1, "", "zero.shard_ranks=-2", {"zero.shard_ranks is -2|at least 0"}},
      {kDense, 1, "", "communication.bucket_megabytes=0", {"bucket_megabytes is 0|greater than 0"}},
      {kDense, 1, "", "communication.deadline_seconds=0", {"deadline_seconds is 0|greater than 0"}},
      {kDense, 1, "", "communication.test_link_latency_us=-1", {"latency_us is -1|at least 0"}},
      {kDense, 1, "", "evaluate.every_steps=-1", {"evaluate.every_steps is -1|at least 0"}},
      {kDense, 1, "", "evaluate.sequences=0", {"evaluate.sequences is 0|at least 1"}},
      {kDense, 1, "", "checkpoint.every_steps=-5", {"checkpoint.every_steps is -5|at least 0"}},
      {kDense, 1, "", "checkpoint.keep=0", {"checkpoint.keep is 0|at least 1"}},
      {kDense, 1, "", "log.every_steps=0", {"log.every_steps is 0|at least 1"}},
      {kDense, 1, "", "goodput.peak=-3", {"goodput.peak|positive"}},
      {kDense, 1, "", "goodput.peak=h2000", {"goodput.peak|h200"}},
      // The model.
      {kDense, 1, "", "model.vocab_size=0", {"model.vocab_size is 0|at least 1"}},
      {kDense, 1, "", "model.layers=0", {"model.layers is 0|at least 1"}},
      {kDense, 1, "", "model.hidden=0 model.head_size=8", {"model.hidden is 0|at least 1"}},
      {kDense, 1, "", "model.heads=0", {"model.heads is 0|at least 1"}},
      {kDense, 1, "", "model.kv_heads=3", {"model.kv_heads is 3|heads (4)|2 or 4"}},
      {kDense, 1, "", "model.head_size=7", {"model.head_size is 7|even|6 or 8"}},
      {kDense, 1, "", "model.ffn_hidden=0", {"model.ffn_hidden is 0|at least 1"}},
      {kDense, 1, "", "model.norm_epsilon=0", {"model.norm_epsilon is 0|positive"}},
      {kDense, 1, "", "model.rope_theta=-1", {"model.rope_theta is -1|positive"}},
      {kDense, 1, "", "model.init_std=0", {"model.init_std is 0|positive"}},
      {kMoe, 1, "", "model.moe.experts=0", {"model.moe.experts is 0|at least 1"}},
      {kMoe, 1, "", "model.moe.top_k=9", {"model.moe.top_k is 9|within 1 and 8"}},
      {kMoe, 1, "", "model.moe.top_k=0", {"model.moe.top_k is 0|within 1 and 8"}},
      {kMoe, 1, "", "model.moe.expert_ffn_hidden=0", {"expert_ffn_hidden is 0|at least 1"}},
      {kMoe, 1, "", "model.moe.shared_experts=-1", {"shared_experts is -1|at least 0"}},
      {kMoe, 1, "", "model.moe.first_dense_layers=-1", {"first_dense_layers is -1|at least 0"}},
      {kMoe, 1, "", "model.moe.layer_period=0", {"layer_period is 0|at least 1"}},
      {kMoe, 1, "", "model.moe.first_dense_layers=4", {"leaves no MoE layer|lower one"}},
      {kMoe, 1, "", "model.moe.groups=3", {"model.moe.groups is 3|divide|2 or 4"}},
      {kMoe, 1, "", "model.moe.groups=8", {"group_top_k is 1|use at least 2"}},
      {kMoe, 1, "", "model.moe.group_top_k=2", {"group_top_k is 2|within 1 and 1"}},
      {kMoe, 1, "", "model.moe.weight_scale=0", {"weight_scale is 0|positive"}},
      {kMoe, 1, "", "model.moe.aux_loss=-1", {"aux_loss is -1|not below 0"}},
      {kMoe, 1, "", "model.moe.capacity_factor=-1", {"capacity_factor is -1|not below 0"}},
      // The mesh: degrees, products, folding, order.
      {kDense, 1, "", "mesh.tp=0", {"mesh.tp = 0|nearest legal value is 1"}},
      {kDense, 1, "", "mesh.dp=-1", {"mesh.dp = -1|at least 1, or 0"}},
      {kDense,
       4,
       "",
       "mesh.dp=3",
       {"mesh.dp = 3|nearest legal value is 4, or start 3 ranks", "is 32|3 x 1 = 3|nearest is 33"}},
      {kDense, 4, "", "mesh.dp=2 mesh.tp=4", {"mesh.dp = 2|makes 8 ranks|value is 1"}},
      {kDense,
       8,
       "",
       "mesh.cp=3",
       {"mesh.cp 3|divide the 8 ranks|mesh.cp = 2 or 4", "is 32|2 x mesh.cp = 6|is 30"}},
      {kDense, 8, "", "mesh.pp=3", {"mesh.pp 3|divide the 8 ranks|mesh.pp = 2 or 4"}},
      {kDense, 4, "", "mesh.tp=8", {"mesh.tp 8|divide the 4 ranks|mesh.tp = 4"}},
      {kMoe, 8, "", "mesh.ep=3", {"mesh.ep 3|8 ranks of a pipeline stage|mesh.ep = 2 or 4"}},
      {kMoe, 8, "", "mesh.ep=4 mesh.etp=4", {"= 16 must divide the 8 ranks|mesh.ep = 2"}},
      {kMoe, 8, "", "mesh.pp=2 mesh.ep=8", {"4 ranks of a pipeline stage|mesh.ep = 4"}},
      {kMoe,
       3,
       "",
       "mesh.ep=3 train.global_batch_sequences=9",
       {"mesh.ep is 3|model.moe.experts (8)|2 or 4"}},
      {kMoe,
       16,
       "",
       "mesh.ep=16 train.global_batch_sequences=16",
       {"mesh.ep is 16|model.moe.experts (8)|nearest that does is 8"}},
      {kMoe,
       16,
       "",
       "mesh.etp=16 train.global_batch_sequences=16",
       {"mesh.etp is 16|expert_ffn_hidden (24)|12 or 24"}},
      {kDense, 2, "", "mesh.ep=2", {"mesh.ep is 2|without experts needs 1"}},
      {kDense, 2, "", "mesh.etp=2", {"mesh.etp is 2|without experts needs 1"}},
      {kDense, 1, "", "mesh.order=tp-cp-dp", {"mesh.order|nearest is \"tp cp dp pp\""}},
      {kDense, 1, "", "mesh.order=dp-tp-tp-pp", {"mesh.order|nearest is \"dp tp pp cp\""}},
      {kDense, 1, "mesh { order: \"pp ep tp\" }", "", {"mesh.order|nearest is \"pp tp cp dp\""}},
      // Tensor, context and sequence.
      {kDense,
       3,
       "",
       "mesh.tp=3 mesh.sequence_parallel=false",
       {"mesh.tp is 3|model.heads (4)|2 or 4"}},
      {kDense, 2, "", "mesh.tp=2 model.ffn_hidden=63", {"mesh.tp is 2|model.ffn_hidden (63)|is 1"}},
      {kDense, 4, "", "mesh.tp=4 model.kv_heads=2", {"mesh.tp is 4|model.kv_heads (2)|is 2"}},
      {kDense, 4, "", "mesh.tp=4 model.vocab_size=3", {"mesh.tp is 4|at most model.vocab_size, 3"}},
      {kMoe,
       16,
       "",
       "mesh.tp=16 model.heads=16 model.head_size=2 model.moe.shared_experts=1 mesh.ep=2 "
       "train.global_batch_sequences=16",
       {"mesh.tp is 16|shared_experts x model.moe.expert_ffn_hidden (24)|nearest that does is 8"}},
      {kDense,
       2,
       "",
       "mesh.tp=2 train.sequence_length=31 train.global_batch_sequences=3",
       {"is 31|93 tokens on a rank|nearest length that divides is 32"}},
      {kMoe,
       2,
       "",
       "mesh.tp=2 mesh.sequence_parallel=false train.sequence_length=31 "
       "train.global_batch_sequences=3",
       {"is 31|routed over mesh.tp = 2|is 32"}},
      {kDense, 2, "", "mesh.cp=2 train.sequence_length=30", {"is 30|2 x mesh.cp = 4|is 32"}},
      {kDense, 5, "", "mesh.cp=5 train.sequence_length=28", {"is 28|2 x mesh.cp = 10|is 30"}},
      {kDense, 20, "", "mesh.cp=20", {"2 x mesh.cp = 40|lower mesh.cp"}},
      {kDense, 1, "", "mesh.context_exchange=MESH", {"mesh.context_exchange is MESH|ALL_GATHER"}},
      // Batch, schedule and stages.
      {kDense, 4, "", "train.global_batch_sequences=30", {"is 30|4 x 1 = 4|nearest is 32"}},
      {kDense, 4, "", "train.global_batch_sequences=2", {"is 2|nearest is 4"}},
      {kDense,
       2,
       "",
       "train.global_batch_sequences=10 schedule.microbatches=4",
       {"is 10|2 x 4 = 8|nearest is 8"}},
      {kDense, 8, "", "mesh.pp=8", {"8 stages of model.layers = 4|at most 4"}},
      {kDense, 2, "", "mesh.pp=2 schedule.layers_per_stage=1,2", {"sums to 3|model.layers, 4"}},
      {kDense, 2, "", "mesh.pp=2 schedule.layers_per_stage=4", {"has 1 numbers|2 stages"}},
      {kDense, 2, "", "mesh.pp=2 schedule.layers_per_stage=4,0", {"gives stage 1 0 layers"}},
      {kDense,
       2,
       "",
       "mesh.pp=2 schedule.layers_per_stage=5,0,1",
       {"has 3 numbers|2 stages", "gives stage 1 0 layers", "sums to 6|model.layers, 4"}},
      {kDense,
       2,
       "",
       "mesh.pp=2 schedule.kind=interleaved_1f1b schedule.microbatches=3 "
       "train.global_batch_sequences=9",
       {"microbatches is 3|multiple of them; the nearest is 4"}},
      {kDense,
       2,
       "",
       "mesh.pp=2 schedule.kind=interleaved_1f1b schedule.virtual_stages=3 "
       "schedule.microbatches=2",
       {"6 stages of model.layers = 4"}},
      {kDense,
       2,
       "",
       "mesh.pp=2 schedule.kind=zb_v schedule.microbatches=2",
       {"microbatches is 2|zb_v on mesh.pp = 2 ranks needs at least 4"}},
      {kDense,
       2,
       "",
       "mesh.pp=2 schedule.kind=dualpipev schedule.microbatches=1",
       {"microbatches is 1|dualpipev|at least 4"}},
      {kDense,
       4,
       "",
       "mesh.pp=4 schedule.kind=zb_v schedule.microbatches=8",
       {"8 stages of model.layers = 4|at most 4"}},
      {kDense, 1, "", "schedule.kind=from_file", {"schedule.file is \"\"|a file that can be read"}},
      {kDense, 1, "", "schedule.file=lists.txt", {"schedule.file is given|from_file"}},
      {kDense, 1, "", "schedule.kind=gpipe", {"schedule.kind is gpipe|one_f_one_b"}},
      // ZeRO, recomputation, device, precision.
      {kDense, 4, "", "zero.shard_ranks=3", {"zero.shard_ranks = 3|2 or 4"}},
      {kDense, 4, "", "zero.shard_ranks=8", {"zero.shard_ranks = 8|nearest legal: 4"}},
      {kDense, 4, "", "zero.level=0 zero.shard_ranks=2", {"shard_ranks is 2|zero.level 1 to 3"}},
      {kMoe,
       6,
       "",
       "model.moe.experts=6 mesh.ep=3 zero.shard_ranks=2 train.global_batch_sequences=6",
       {"zero.shard_ranks = 2|mesh.ep x mesh.etp = 3|1 or 3"}},
      {kDense,
       8,
       "",
       "mesh.tp=2 zero.shard_ranks=2 mesh.order=dp-tp-cp-pp",
       {"zero.shard_ranks = 2|tp before cp and dp|tp cp dp pp"}},
      {kDense, 1, "", "recompute.moe=true", {"recompute.moe is true|use recompute.mlp"}},
      {kDense, 1, "", "precision.compute=fp8", {"precision.compute is fp8|fp32, bf16, fp64"}},
      {kDense, 1, "", "device=TPU", {"device is TPU|CPU, CUDA"}},
      // Data.
      {kDense, 1, "", "data.synthetic=", {"data is missing|data.train_files"}},
      {kDense,
       1,
       "",
       "data.synthetic= data.train_files=none.tokens",
       {"none.tokens|wanted a token file"}},
      {kDense,
       1,
       "",
       "data.train_files=none.tokens",
       {"keep one of them", "none.tokens|wanted a token file"}},
      {kDense, 1, "", "data.validation_files=none.tokens", {"beside data.synthetic|remove"}},
      {kDense, 1, "", "data.tokenizer=none.model", {"none.model|SentencePiece"}},
      // Keys and types.
      {kDense, 1, "", "mesh.pd=2", {"mesh.pd|did you mean mesh.dp?"}},
      {kDense, 1, "", "stesp=2", {"unknown key stesp"}},
      {kDense, 1, "", "train.steps", {"no ="}},
      {kDense, 1, "", "train=5", {"is a block"}},
      {kDense, 1, "", "train.steps=", {"empty|integer"}},
      {kDense, 1, "", "train.steps=ten", {"train.steps is ten|an integer"}},
      {kDense, 1, "", "train.steps=1.6", {"an integer; the nearest is 2"}},
      {kDense, 1, "", "train.seed=-1", {"train.seed is -1|at least 0"}},
      {kDense, 1, "", "mesh.dp=3000000000", {"at most 2147483647"}},
      {kDense, 1, "", "communication.overlap=maybe", {"true or false"}},
      {kDense, 1, "train { stesp: 5 }", "", {"unknown key train.stesp|train.steps"}},
      {kDense, 1, "train { steps: \"5\" }", "", {"without quotes"}},
      {kDense, 1, "train { steps: [1, 2] }", "", {"one value, not a list"}},
      {kDense, 1, "train { steps 5 }", "", {"a colon after train.steps"}},
      {kDense, 1, "train { steps: 5", "", {"not closed"}},
      {kDense, 1, "train { steps: 5 } train { seed: 1 }", "", {"given twice"}},
      {kDense, 1, "model_file: 'none.textproto'", "", {"none.textproto|No such file"}},
      // Several rules at once: all are named.
      {kDense,
       1,
       "",
       "train.steps=0 optimizer.beta1=1 zero.level=7",
       {"train.steps is 0", "beta1 is 1", "zero.level is 7"}},
      {kDense,
       1,
       "",
       "mesh.tp=0 mesh.cp=-1 mesh.ep=0",
       {"mesh.tp = 0", "mesh.cp = -1", "mesh.ep = 0"}},
      {kMoe,
       6,
       "",
       "mesh.ep=4 mesh.tp=4 model.moe.top_k=9 log.every_steps=0",
       {"mesh.tp 4|6 ranks|mesh.tp = 3 or 6", "mesh.ep 4|mesh.ep = 3 or 6", "top_k is 9",
        "log.every_steps is 0"}},
      {kMoe,
       8,
       "",
       "mesh.tp=8 mesh.etp=8 mesh.cp=1 model.moe.expert_ffn_hidden=20",
       {"mesh.tp is 8|model.heads (4)|is 4", "mesh.etp is 8|(20)|5 or 10"}},
      {kDense,
       4,
       "",
       "mesh.cp=2 train.sequence_length=30 train.global_batch_sequences=7 "
       "recompute.moe=true",
       {"is 30|2 x mesh.cp = 4", "is 7|2 x 1 = 2", "recompute.moe is true"}},
      {kDense,
       2,
       "train { stesp: 5 }\nzero { level: two }",
       "mesh.dp=3 checkpoint.keep=0",
       {"unknown key train.stesp", "zero.level is two", "mesh.dp = 3", "checkpoint.keep is 0",
        "global_batch_sequences is 32|nearest is 33"}},
      {kMoe,
       4,
       "",
       "mesh.order=up mesh.ep=3 device=GPU schedule.kind=zb schedule.microbatches=0 "
       "model.kv_heads=3 data.tokenizer=none.model",
       {"mesh.order is \"up\"", "mesh.ep 3", "device is GPU", "schedule.kind is zb",
        "microbatches is 0", "kv_heads is 3", "none.model"}},
  };
  return configs;
}

TEST(IllegalConfigs, ABaseIsLegal) {
  for (const Model model : {kDense, kMoe}) {
    bool legal = false;
    EXPECT_TRUE(ProblemsOf({model, 1, "", "", {}}, &legal).empty());
    EXPECT_TRUE(legal);
  }
}

TEST(IllegalConfigs, AreRefusedWithEveryBrokenRuleAndNoOther) {
  for (const Illegal& config : Configs()) {
    bool legal = true;
    const std::vector<std::string> problems = ProblemsOf(config, &legal);
    SCOPED_TRACE(absl::StrCat(config.text, " ", config.overrides, "\n"));
    std::string found;
    for (const std::string& problem : problems) absl::StrAppend(&found, "  ", problem, "\n");
    EXPECT_FALSE(legal);
    EXPECT_EQ(problems.size(), config.problems.size()) << found;
    for (const char* parts : config.problems) {
      EXPECT_EQ(std::count_if(problems.begin(), problems.end(),
                              [&](const std::string& p) { return HasAllParts(p, parts); }),
                1)
          << parts << " is not, or more than once, in\n"
          << found;
    }
  }
}

// On GPUs, whether or not this build has any.
TEST(IllegalConfigs, AttentionOnGpusMustHaveAKernelOrTheSlowOneByName) {
  struct {
    const char* overrides;
    const char* problem;  // parts; null: none
  } const cases[] = {
      {"precision.compute=bf16", nullptr},
      {"precision.compute=bf16 model.head_size=256", nullptr},
      {"precision.compute=bf16 model.head_size=20",
       "model.head_size is 20|cuDNN|multiples of 8 up to 256|nearest is "
       "24|attention_kernel=DIRECT"},
      {"precision.compute=bf16 model.head_size=20 precision.attention_kernel=DIRECT", nullptr},
      {"precision.compute=fp32 model.head_size=20", nullptr},
      {"precision.compute=bf16 model.head_size=512", "model.head_size is 512|nearest is 256"},
      {"precision.compute=fp32 model.head_size=512", "512|direct kernels|nearest is 256"},
  };
  for (const auto& [overrides, problem] : cases) {
    SCOPED_TRACE(overrides);
    bool legal = false;
    std::vector<std::string> problems =
        ProblemsOf({kDense, 1, "", absl::StrCat("device=CUDA ", overrides).c_str(), {}}, &legal);
    std::erase_if(problems, [](const std::string& p) {
      return HasAllParts(p, "this build has no");  // CUDA, or cuDNN
    });
    ASSERT_EQ(problems.size(), problem == nullptr ? 0u : 1u) << absl::StrJoin(problems, "\n");
    if (problem != nullptr) EXPECT_TRUE(HasAllParts(problems.front(), problem)) << problems.front();
  }
  bool legal = false;
  EXPECT_TRUE(
      ProblemsOf({kDense, 1, "", "precision.compute=bf16 model.head_size=20", {}}, &legal).empty())
      << "the CPU takes any head size";
}

TEST(IllegalConfigs, AreAHundredOrMoreEachOnce) {
  std::set<std::string> seen;
  for (const Illegal& config : Configs()) {
    EXPECT_TRUE(
        seen.insert(absl::StrCat(config.model, config.ranks, config.text, "/", config.overrides))
            .second)
        << config.text << config.overrides;
  }
  EXPECT_GE(seen.size(), 100u);
}

}  // namespace
}  // namespace muster::runtime
