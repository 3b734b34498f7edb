// Illegal configs: every mistake is named, at its line, with what would work.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "kernels/device/device.h"
#include "runtime/job/config.h"
#include "runtime/job/field_path.h"
#include "runtime/job/text_reader.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

const std::string kModel =
    "model { vocab_size: 64 hidden: 32 layers: 2 heads: 4 ffn_hidden: 64 max_positions: 32 }\n";
const std::string kLegal = kModel + "data { synthetic {} }\n";

// The problems of a config text; each as "<line or place>: <message>".
std::vector<std::string> ProblemsOf(const std::string& text,
                                    const std::vector<std::string>& overrides = {},
                                    int world_size = 1) {
  const ScratchDirectory directory;
  const std::string path = directory.Write("job.textproto", text);
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const bool legal = LoadJob(path, overrides, world_size, &job, &problems);
  EXPECT_EQ(legal, problems.empty());
  EXPECT_TRUE(legal || job.text.empty()) << "a failed load leaves no job";
  std::vector<std::string> lines;
  for (const ConfigProblem& problem : problems) {
    std::string where = problem.where;
    if (where.starts_with(path)) where.erase(0, path.size());
    lines.push_back(absl::StrCat(where, ": ", problem.message));
  }
  return lines;
}

std::string Joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// Exactly one problem, with all of `parts` in its text.
void ExpectOne(const std::vector<std::string>& problems, const std::vector<std::string>& parts) {
  ASSERT_EQ(problems.size(), 1u) << Joined(problems);
  for (const std::string& part : parts) {
    EXPECT_NE(problems[0].find(part), std::string::npos) << problems[0] << "\nlacks: " << part;
  }
}

TEST(ConfigErrors, TheBaseOfTheseTestsIsLegal) { EXPECT_EQ(Joined(ProblemsOf(kLegal)), ""); }

TEST(ConfigErrors, NcclOptionsAreForGpusAndNeverIgnored) {
  for (const char* field :
       {"min_ctas: 2", "max_ctas: 4", "overlapped_max_ctas: 4", "cga_cluster_size: 2",
        "cta_policy: EFFICIENCY", "nvls: true", "sums_in_rank_order: true"}) {
    const std::string name = std::string(field).substr(0, std::string(field).find(':'));
    ExpectOne(ProblemsOf(kLegal + "communication { nccl { " + field + " } }"),
              {"communication.nccl." + name, "device is CPU", "device: CUDA"});
  }
  EXPECT_EQ(Joined(ProblemsOf(kLegal + "communication { nccl { max_ctas: 0 } }")), "");
  const std::string cuda = kLegal + "device: CUDA\n";
  const auto told = [&](const std::string& nccl) {
    return Joined(ProblemsOf(cuda + "communication { nccl { " + nccl + " } }"));
  };
  EXPECT_NE(told("max_ctas: 65").find("at most 64"), std::string::npos);
  EXPECT_EQ(told("cta_policy: ZERO").find("nccl"), std::string::npos);
  EXPECT_NE(
      Joined(ProblemsOf(cuda + "zero { level: 0 } communication { nccl { cta_policy: ZERO } }"))
          .find("use zero.level 1 or more"),
      std::string::npos);
  EXPECT_NE(told("min_ctas: 8 max_ctas: 4").find("at most communication.nccl.max_ctas, 4"),
            std::string::npos);
  EXPECT_EQ(told("min_ctas: 4 max_ctas: 8 cta_policy: EFFICIENCY").find("nccl"), std::string::npos);
}

TEST(ConfigErrors, UnknownKeyNamesLineAndNearest) {
  ExpectOne(ProblemsOf(kLegal + "train {\n  stesp: 5\n}\n"),
            {":4: ", "unknown key train.stesp", "train.steps"});
  ExpectOne(ProblemsOf(kLegal + "trian { steps: 5 }\n"), {":3: ", "unknown key trian", "train?"});
}

TEST(ConfigErrors, KeyOfAnotherBlockIsFound) {
  ExpectOne(ProblemsOf(kLegal + "microbatches: 2\n"), {":3: ", "schedule.microbatches"});
  ExpectOne(ProblemsOf(kLegal + "train { learning_rate: 1 }\n"), {"optimizer.learning_rate"});
}

TEST(ConfigErrors, UnknownBlockIsSkippedWhole) {
  ExpectOne(ProblemsOf(kLegal + "qqqqqqqq {\n a: 1\n b { c: [1, 2] }\n}\ntrain { steps: 3 }\n"),
            {":3: ", "unknown key qqqqqqqq"});
}

TEST(ConfigErrors, CudaWantsABuildWithCuda) {
  if (kernels::kBuiltWithCuda) {
    EXPECT_TRUE(ProblemsOf(kLegal, {"device=CUDA"}).empty());
  } else {
    ExpectOne(ProblemsOf(kLegal, {"device=CUDA"}), {"device is CUDA", "no CUDA backend"});
  }
}

TEST(ConfigErrors, BadEnumValueListsTheLegalOnes) {
  ExpectOne(ProblemsOf(kLegal + "precision { compute: fp-32 }"),
            {":3: ", "precision.compute is fp-32", "fp32, bf16, fp64", "nearest is fp32"});
  ExpectOne(ProblemsOf(kLegal + "optimizer { decay: 1 }"), {"COSINE, LINEAR, CONSTANT"});
  ExpectOne(ProblemsOf(kLegal, {"device=CUDE"}), {"--set device", "nearest is CUDA"});
}

TEST(ConfigErrors, WrongTypesSayWhatIsWanted) {
  ExpectOne(ProblemsOf(kLegal + "train { steps: ten }"), {"train.steps is ten", "an integer"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: 1.6 }"), {"an integer; the nearest is 2"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: 1e3 }"), {"the nearest is 1000"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: 32k }"), {"train.steps is 32k"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: \"5\" }"), {"\"5\"", "without quotes"});
  ExpectOne(ProblemsOf(kLegal + "train { seed: -1 }"), {"train.seed is -1", "at least 0"});
  ExpectOne(ProblemsOf(kLegal + "mesh { dp: 3000000000 }"), {"at most 2147483647"});
  ExpectOne(ProblemsOf(kLegal + "optimizer { beta1: high }"), {"a number"});
  ExpectOne(ProblemsOf(kLegal + "communication { overlap: yes }"), {"true or false"});
  ExpectOne(ProblemsOf(kLegal + "name: tiny"), {"in quotes: \"tiny\""});
  ExpectOne(ProblemsOf(kLegal + "train: 5"), {"train is a block", "found 5"});
  ExpectOne(ProblemsOf(kLegal + "name { }"), {"wanted a colon after name"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: [1, 2] }"), {"one value, not a list"});
}

TEST(ConfigErrors, BrokenSyntaxIsPlaced) {
  ExpectOne(ProblemsOf(kLegal + "train {\n steps 5\n}"), {":4: ", "a colon after train.steps"});
  ExpectOne(ProblemsOf(kLegal + "train {\n steps:\n seed: 5\n}"),
            {":4: ", "a value for train.steps"});
  ExpectOne(ProblemsOf(kLegal + "\ntrain {\n steps: 5\n"), {":4: ", "not closed"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: 5 }\n}\n"), {":4: ", "found }"});
  ExpectOne(ProblemsOf(kLegal + "train { steps: 5 }\ntrain { seed: 1 }\n"),
            {":4: ", "given twice", "line 3"});
}

TEST(ConfigErrors, MissingPartsAreNamed) {
  ExpectOne(ProblemsOf(kModel), {"data is missing"});
  ExpectOne(ProblemsOf("data { synthetic {} }"), {"model is missing"});
  ExpectOne(ProblemsOf("data { synthetic {} } model_file: 'none.textproto'"),
            {":1: ", "none.textproto", "No such file"});
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  EXPECT_FALSE(LoadJob("/nonexistent/job.textproto", {}, 1, &job, &problems));
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].where, "/nonexistent/job.textproto");
}

TEST(ConfigErrors, ModelFileProblemsNameTheModelFile) {
  const ScratchDirectory directory;
  directory.Write("m.textproto",
                  "vocab_size: 8 hidden: 8 layers: 1 heads: 3\nkv_heads: 2 "
                  "head_size: 4 ffn_hidden: 8\nmax_position: 24");
  const std::string path =
      directory.Write("job.textproto", "model_file: 'm.textproto' data { synthetic {} }");
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  EXPECT_FALSE(LoadJob(path, {}, 1, &job, &problems));
  ASSERT_EQ(problems.size(), 2u) << Describe(problems, path);
  EXPECT_EQ(problems[0].where, directory.File("m.textproto") + ":3");
  EXPECT_NE(problems[0].message.find("model.max_positions"), std::string::npos);
  EXPECT_EQ(problems[1].where, directory.File("m.textproto") + ":2") << problems[1].message;
}

TEST(ConfigErrors, RangesNameTheBound) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train { steps: 0 }", "at least 1"},
      {"train { max_seconds: -1 }", "at least 0"},
      {"train { global_batch_sequences: 0 }", "at least 1"},
      {"optimizer { learning_rate: 0 }", "greater than 0"},
      {"optimizer { learning_rate: inf }", "finite"},
      {"optimizer { learning_rate: nan }", "finite"},
      {"optimizer { min_learning_rate_ratio: 1.5 }", "at most 1"},
      {"optimizer { beta1: 1 }", "below 1"},
      {"optimizer { beta2: -0.1 }", "at least 0"},
      {"optimizer { epsilon: 0 }", "greater than 0"},
      {"optimizer { weight_decay: -0.1 }", "at least 0"},
      {"optimizer { clip_norm: -1 }", "at least 0"},
      {"optimizer { warmup_steps: 9 decay_steps: 8 }", "at most optimizer.decay_steps, 8"},
      {"schedule { microbatches: 0 }", "at least 1"},
      {"zero { level: 4 }", "at most 3"},
      {"communication { bucket_megabytes: 0 }", "greater than 0"},
      {"communication { deadline_seconds: 0 }", "greater than 0"},
      {"communication { start_deadline_seconds: 0 }", "greater than 0"},
      {"communication { save_deadline_seconds: -1 }", "greater than 0"},
      {"communication { evaluate_deadline_seconds: 0 }", "greater than 0"},
      {"evaluate { sequences: 0 }", "at least 1"},
      {"zero { shard_ranks: -1 }", "at least 0"},
      {"zero { level: 0 shard_ranks: 2 }", "use zero.level 1 to 3"},
      {"recompute { moe: true }", "use recompute.mlp"},
      {"checkpoint { every_steps: -1 }", "at least 0"},
      {"checkpoint { keep: 0 }", "at least 1"},
      {"log { every_steps: 0 }", "at least 1"},
      {"goodput { peak: '' }", "auto, measured"},
      {"goodput { peak: '-3' }", "positive"},
      {"goodput { peak: 'h2000' }", "h200"},
      {"train { sequence_length: 33 }", "at most model.max_positions, 32"},
  };
  for (const auto& [text, rule] : cases) {
    ExpectOne(ProblemsOf(kLegal + "\n" + text), {":4: ", rule});
  }
}

TEST(ConfigErrors, StagesMustSuitTheLayers) {
  const std::string pp2 = kLegal + "\nmesh { pp: 2 }";
  EXPECT_TRUE(ProblemsOf(pp2, {"schedule.layers_per_stage="}, 2).empty());
  const std::vector<std::string> deep = ProblemsOf(kLegal, {"mesh.pp=64"}, 64);
  ASSERT_EQ(deep.size(), 1u);
  EXPECT_NE(deep[0].find("each stage needs a layer"), std::string::npos) << deep[0];
  const std::vector<std::string> wrong =
      ProblemsOf(kLegal, {"mesh.pp=2", "schedule.layers_per_stage=1000,0,7"}, 2);
  ASSERT_EQ(wrong.size(), 3u);
  EXPECT_NE(wrong[0].find("has 3 numbers: this pipeline has 2"), std::string::npos) << wrong[0];
  EXPECT_NE(wrong[1].find("gives stage 1 0 layers"), std::string::npos) << wrong[1];
  EXPECT_NE(wrong[2].find("sums to 1007"), std::string::npos) << wrong[2];
}

TEST(ConfigErrors, SchedulesNameTheMicrobatchesTheyNeed) {
  const std::vector<std::string> pp2 = {"mesh.pp=2", "model.layers=8"};
  const auto problems = [&](std::vector<std::string> more) {
    more.insert(more.end(), pp2.begin(), pp2.end());
    return ProblemsOf(kLegal, more, 2);
  };
  EXPECT_EQ(Joined(problems({"schedule.kind=zb_v", "schedule.microbatches=4"})), "");
  EXPECT_EQ(Joined(problems({"schedule.kind=interleaved_1f1b", "schedule.microbatches=2",
                             "schedule.virtual_stages=4"})),
            "");
  ExpectOne(problems({"schedule.kind=dualpipev", "schedule.microbatches=2"}),
            {"--set schedule.microbatches", "dualpipev on mesh.pp = 2 ranks needs at least 4"});
  ExpectOne(problems({"schedule.kind=interleaved_1f1b", "schedule.microbatches=1"}),
            {"schedule.microbatches is 1", "a multiple of them; the nearest is 2"});
  ExpectOne(problems({"schedule.kind=interleaved_1f1b", "schedule.microbatches=2",
                      "schedule.virtual_stages=5"}),
            {"10 stages of model.layers = 8", "at most 8"});
  ExpectOne(problems({"schedule.virtual_stages=0"}), {"schedule.virtual_stages is 0"});
  ExpectOne(problems({"schedule.kind=from_file"}), {"schedule.file is \"\""});
  ExpectOne(problems({"schedule.file=x"}), {"schedule.kind is one_f_one_b"});
  ExpectOne(problems({"schedule.kind=from_file", "schedule.file=/dev/zero"}),
            {"schedule.file is \"/dev/zero\"", "at most 16 MiB"});
}

// Such a schedule would be planned in memory before anybody could refuse it.
TEST(ConfigErrors, SchedulesThatNobodyCouldPlanAreRefusedAtOnce) {
  const auto problems = [](std::vector<std::string> more) {
    more.insert(more.end(), {"mesh.pp=2", "train.global_batch_sequences=2000000000"});
    return ProblemsOf(kLegal, more, 2);
  };
  ExpectOne(problems({"schedule.microbatches=2000000000"}),
            {"schedule.microbatches is 2000000000: on 2 stages at most 65536"});
  ExpectOne(problems({"schedule.kind=zb_v", "schedule.microbatches=2000000000"}),
            {"schedule.microbatches is 2000000000: on 4 stages at most 32768"});
  ExpectOne(problems({"schedule.kind=interleaved_1f1b", "schedule.microbatches=2",
                      "schedule.virtual_stages=2000000000"}),
            {"schedule.virtual_stages is 2000000000", "at most 65536"});
}

TEST(ConfigErrors, OfThousandsOfUnknownKeysAHundredAreListed) {
  std::string text = kLegal;
  for (int i = 0; i < 20'000; ++i) text += "lear" + std::to_string(i) + ": 5\n";
  const std::vector<std::string> problems = ProblemsOf(text);
  ASSERT_EQ(problems.size(), 101u);
  EXPECT_NE(problems.back().find("further problems are not listed"), std::string::npos);
}

TEST(ConfigErrors, ScheduleFilesAreReadAndProved) {
  const ScratchDirectory directory;
  const auto problems = [&](const std::string& lists) {
    const std::string path = directory.Write("lists.txt", lists);
    return ProblemsOf(kLegal,
                      {"mesh.pp=2", "schedule.microbatches=2", "schedule.kind=from_file",
                       "schedule.file=" + path},
                      2);
  };
  EXPECT_EQ(Joined(problems("0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 B1.0 F1.1 B1.1\n")), "");
  ExpectOne(problems("0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 B1.O\n"), {"lists.txt:2: found \"B1.O\""});
  ExpectOne(problems("0: F0.0 B0.0\n1: F1.0 B1.0\n"), {"1 microbatches", "is 2"});
  ExpectOne(problems("0: F0.0 F0.1 B0.0 B0.1\n"), {"lists for 1 ranks: mesh.pp is 2"});
  ExpectOne(problems("0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 F1.1 B1.1\n"),
            {"the backward of stage 1, microbatch 0 is missing"});
  ExpectOne(problems("0: F0.0 B0.0 F0.1 B0.1\n1: F1.1 B1.1 F1.0 B1.0\n"),
            {"deadlock", "B0.0 (rank 0, action 2) waits for gradients 1>0 of microbatch 0"});
}

TEST(ConfigErrors, MeshMustFitTheWorldAndTheModel) {
  const std::vector<std::string> problems = ProblemsOf(kLegal, {"mesh.dp=3"}, 4);
  ASSERT_FALSE(problems.empty());
  EXPECT_NE(problems[0].find("--set mesh.dp"), std::string::npos) << problems[0];
  ExpectOne(ProblemsOf(kLegal, {"mesh.ep=2"}, 2), {"--set mesh.ep", "without experts"});
}

TEST(ConfigErrors, TensorDegreeMustDivideTheModelAndTheTokens) {
  ExpectOne(ProblemsOf(kLegal, {"mesh.tp=3", "mesh.sequence_parallel=false"}, 3),
            {"--set mesh.tp", "it must divide model.heads (4), model.kv_heads (4)",
             "model.ffn_hidden (64)", "nearest that does is 2 or 4"});
  EXPECT_EQ(Joined(ProblemsOf(kLegal, {"mesh.tp=2"}, 2)), "");
  ExpectOne(
      ProblemsOf(kLegal,
                 {"mesh.tp=2", "train.sequence_length=31", "train.global_batch_sequences=3"}, 2),
      {"--set train.sequence_length", "3 sequences has 93 tokens on a rank", "mesh.tp = 2",
       "mesh.sequence_parallel=false"});
  EXPECT_EQ(Joined(ProblemsOf(kLegal,
                              {"mesh.tp=2", "train.sequence_length=31",
                               "train.global_batch_sequences=3", "mesh.sequence_parallel=false"},
                              2)),
            "");
}

TEST(ConfigErrors, ContextRanksTakeTwoChunksOfEverySequence) {
  EXPECT_EQ(Joined(ProblemsOf(kLegal, {"mesh.cp=2"}, 2)), "");
  ExpectOne(
      ProblemsOf(kLegal, {"mesh.cp=2", "train.sequence_length=30"}, 2),
      {"--set train.sequence_length", "sequence_length is 30", "2 x mesh.cp = 4", "nearest is 32"});
  // 32 positions: the nearest multiple of 10 that fits is below.
  ExpectOne(ProblemsOf(kLegal, {"mesh.cp=5", "train.sequence_length=28"}, 5), {"nearest is 30"});
  ExpectOne(ProblemsOf(kLegal, {"mesh.cp=20", "train.sequence_length=28"}, 20), {"lower mesh.cp"});
  ExpectOne(ProblemsOf(kLegal, {"mesh.context_exchange=MESH"}, 1), {"RING", "ALL_GATHER"});
}

TEST(ConfigErrors, ShardsMustDivideReplicasAndExperts) {
  ExpectOne(ProblemsOf(kLegal + "zero { shard_ranks: 3 }", {}, 4),
            {":3: ", "zero.shard_ranks = 3", "mesh.dp x mesh.cp = 4", "nearest legal: 2 or 4"});
  ExpectOne(ProblemsOf(kLegal + "mesh { ep: 3 }\nzero { shard_ranks: 2 }",
                       {"model.moe.experts=6", "train.global_batch_sequences=6"}, 6),
            {"zero.shard_ranks = 2", "mesh.ep x mesh.etp = 3", "nearest legal: 1 or 3"});
}

TEST(ConfigErrors, ExpertsOverTensorRanksDealOutTokens) {
  const std::vector<std::string> moe = {"model.moe.experts=4", "mesh.tp=2"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), moe.begin(), moe.end());
    return ProblemsOf(kLegal, more, 2);
  };
  EXPECT_EQ(Joined(with({"mesh.etp=2"})), "");
  EXPECT_EQ(Joined(with({"mesh.sequence_parallel=false"})), "");
  ExpectOne(
      with({"mesh.sequence_parallel=false", "train.sequence_length=31",
            "train.global_batch_sequences=3"}),
      {"--set train.sequence_length", "93 tokens on a rank, which are routed over mesh.tp = 2",
       "nearest length that divides is 32"});
  ExpectOne(with({"mesh.etp=2", "model.moe.expert_ffn_hidden=7"}),
            {"--set mesh.etp", "model.moe.expert_ffn_hidden (7)", "nearest that does is 1 or 7"});
  EXPECT_EQ(Joined(with(
                {"model.moe.capacity_factor=1.5", "train.global_batch_sequences=1", "mesh.cp=1"})),
            "");
  ExpectOne(ProblemsOf(kLegal, {"mesh.etp=2"}, 2), {"--set mesh.etp", "without experts needs 1"});
}

TEST(ConfigErrors, BatchNamesTheNearestMultiple) {
  ExpectOne(ProblemsOf(kLegal + "train { global_batch_sequences: 30 } schedule { microbatches: 2 }",
                       {}, 4),
            {":3: ", "global_batch_sequences is 30", "4 x 2 = 8", "nearest is 32"});
  ExpectOne(ProblemsOf(kLegal + "train { global_batch_sequences: 1 }", {}, 4), {"nearest is 4"});
}

TEST(ConfigErrors, DataRules) {
  ExpectOne(ProblemsOf(kModel + "data { train_files: 'missing.tokens' }"),
            {":2: ", "missing.tokens", "token file"});
  ExpectOne(ProblemsOf(kModel + "data { synthetic {} train_files: 'missing.tokens' }",
                       {"data.train_files=" MUSTER_SOURCE_DIR "/CMakeLists.txt"}),
            {"keep one of them"});
  ExpectOne(ProblemsOf(kModel + "data { synthetic { tokens: 20 } }"), {"at least", "33"});
  ExpectOne(ProblemsOf(kModel + "data { synthetic {} validation_files: '/dev/null' }"),
            {"data.validation_files", "remove"});
  ExpectOne(ProblemsOf(kLegal, {"data.tokenizer=none.model"}),
            {"--set data.tokenizer", "none.model"});
  ExpectOne(ProblemsOf(kModel + "data { train_files: '" MUSTER_SOURCE_DIR "/CMakeLists.txt' }\n"
                                "evaluate { every_steps: 5 }"),
            {":3: ", "needs data.validation_files"});
}

TEST(ConfigErrors, OverridesNameTheirKey) {
  ExpectOne(ProblemsOf(kLegal, {"mesh.pd=2"}), {"--set mesh.pd", "did you mean mesh.dp?"});
  ExpectOne(ProblemsOf(kLegal, {"train.steps"}), {"--set train.steps", "no ="});
  ExpectOne(ProblemsOf(kLegal, {"train=5"}), {"--set train", "is a block", "steps"});
  ExpectOne(ProblemsOf(kLegal, {"train.steps="}), {"--set train.steps", "empty", "integer"});
  ExpectOne(ProblemsOf(kLegal, {"train.steps.x=1"}), {"unknown key train.steps.x"});
  ExpectOne(ProblemsOf(kLegal, {"=1"}), {"unknown key"});
}

// A field that could not be read is not complained about again, by its own rules or those of
// others.
TEST(ConfigErrors, OneMistakeGivesOneProblem) {
  ExpectOne(ProblemsOf(kLegal + "schedule { microbatches: 0 }", {}, 4), {"schedule.microbatches"});
  ExpectOne(ProblemsOf("model { vocab_size: 64 hiden: 32 layers: 2 heads: 4 head_size: 8 "
                       "ffn_hidden: 64 max_positions: 32 } data { synthetic {} }"),
            {"did you mean model.hidden?"});
  ExpectOne(ProblemsOf(kLegal + "mesh { dp: two }", {}, 2), {"mesh.dp is two"});
}

TEST(ConfigErrors, EightMistakesAreNamedTogether) {
  const std::vector<std::string> problems = ProblemsOf(
      "name: tiny\n"                                             // 1: not in quotes
      "model { vocab_size: 64 hidden: 32 layers: 2 heads: 4\n"   //
      "  ffn_hidden: 64 max_positions: 32 activation: RELU }\n"  // 3: no such activation
      "data { synthetic {} }\n"                                  //
      "train { steps: 0\n"                                       // 5: out of range
      "  global_batch: 8 }\n"                                    // 6: unknown key
      "optimizer { beta1: 1.0 }\n"                               // 7: out of range
      "zero { level: 4 }\n"                                      // 8: out of range
      "mesh { tp: 0 }\n",                                        // 9: out of range
      {"log.every_steps=never"}, 2);
  EXPECT_EQ(problems.size(), 8u) << Joined(problems);
  const std::string all = Joined(problems);
  for (const std::string part :
       {":1: name", ":3: model.activation", ":5: train.steps", ":6: unknown key train.global_batch",
        ":7: optimizer.beta1", ":8: zero.level", ":9: mesh.tp", "--set log.every_steps"}) {
    EXPECT_NE(all.find(part), std::string::npos) << part << " is not in\n" << all;
  }
}

TEST(ConfigErrors, TwentyMistakesAreNamedTogether) {
  const std::vector<std::string> lines = {
      "name: 5",
      "modle_file: 'x'",
      "model { vocab_size: 64 hidden: 32 layers: 2 heads: 0",
      "  kv_heads: zero",
      "  ffn_hidden: 64",
      "  max_positions: 32 norm: BATCH_NORM",
      "  rope_theta: -1 }",
      "data { synthetic { tokens: 0 }",
      "  tokenizer: 7 }",
      "train { steps: -4",
      "  seed: 0.5",
      "  max_seconds: -1 }",
      "optimizer { learning_rate: 0",
      "  epsilon: tiny",
      "  decay: EXPONENTIAL }",
      "schedule { kind: gpipe",
      "  microbatches: 0 }",
      "communication { overlap: maybe",
      "  bucket_megabytes: -3 }",
      "checkpoint { every_steps: -5 }",
      "evaluate { sequences: 0 }",
      "nonsense",
  };
  // Lines without a mistake; all others have one.
  const std::set<size_t> legal = {5};
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  const std::vector<std::string> problems = ProblemsOf(text);
  const std::string all = Joined(problems);
  for (size_t line = 1; line <= lines.size(); ++line) {
    const std::string where = absl::StrCat(":", line, ": ");
    EXPECT_EQ(("\n" + all).find("\n" + where) != std::string::npos, legal.count(line) == 0)
        << lines[line - 1] << "\n"
        << all;
  }
  EXPECT_EQ(problems.size(), 21u) << all;
}

TEST(ConfigErrors, DescribeCountsAndNumbers) {
  EXPECT_EQ(Describe({{"f:1", "a"}}, "f"), "1 problem in f:\n  1. f:1: a\n");
  EXPECT_EQ(Describe({{"f:1", "a"}, {"f:2", "b"}}, "f"),
            "2 problems in f:\n  1. f:1: a\n  2. f:2: b\n");
}

TEST(ConfigErrors, AFileOfAnotherKindGivesABoundedList) {
  std::mt19937 random(5);
  std::string noise(1 << 17, ' ');
  for (char& c : noise) c = static_cast<char>(random());
  EXPECT_LE(ProblemsOf(noise).size(), 110u);
  ExpectOne(ProblemsOf(std::string((1 << 20) + 1, '#')), {"at most 1 MiB"});
}

// Random damage never crashes the reader, and what it accepts, protobuf's own parser accepts with
// the same result.
TEST(ConfigErrors, ReaderAcceptsNothingThatTextFormatRefuses) {
  const std::string legal =
      "name: \"a\\\"b\" 'c'\nmodel { hidden: 0x20 layers: 010, rope_theta: 1e4 moe < experts: 8 > "
      "}\n"
      "data { train_files: [\"a\", 'b'] train_files: 'c'; }\n# comment\n"
      "optimizer: { beta1: -.5 beta2: 1. epsilon: inf decay: LINEAR }\ncommunication { overlap: t "
      "}";
  const std::string alphabet = "abz019 \n\t:{}<>[],;-+.'\"\\#/xe_\x80";
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = legal;
    for (unsigned edits = random() % 3; edits > 0; --edits) {
      const size_t at = random() % text.size();
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        case 2:
          text.erase(at, 1 + random() % 4);
          break;
      }
    }
    Job mine, theirs;
    FieldOrigins origins("f", *Job::descriptor());
    std::vector<ConfigProblem> problems;
    ReadTextProto(text, "", &mine, &origins, &problems);
    if (!problems.empty()) {
      ASSERT_NE(text, legal) << Describe(problems, "f");
      continue;
    }
    ++accepted;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &theirs)) << text;
    ASSERT_EQ(mine.SerializeAsString(), theirs.SerializeAsString()) << text;
  }
  EXPECT_GT(accepted, 1000) << "undamaged texts alone are a third";
}

}  // namespace
}  // namespace muster::runtime
