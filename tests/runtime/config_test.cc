// Legal configs: what they resolve to, and that the answer is the same every time.
#include "runtime/job/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "google/protobuf/text_format.h"
#include "kernels/base/hash.h"
#include "runtime/job/field_path.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

const std::string kTinyMoe = MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto";
const std::string kTinyDense = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";

ResolvedJob Load(const std::string& path, const std::vector<std::string>& overrides,
                 int world_size) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  EXPECT_TRUE(LoadJob(path, overrides, world_size, &job, &problems)) << Describe(problems, path);
  return job;
}

TEST(Config, TinyJobsAreLegalOnManyWorlds) {
  for (const std::string& path : {kTinyDense, kTinyMoe}) {
    for (const int world : {1, 2, 4, 8}) {
      const ResolvedJob job = Load(path, {}, world);
      EXPECT_EQ(job.mesh.dp, world);
      EXPECT_EQ(job.microbatch_sequences * job.job.schedule().microbatches() * world,
                job.job.train().global_batch_sequences());
    }
  }
}

TEST(Config, OpenDpFillsTheWorldBesideExperts) {
  const ResolvedJob job = Load(kTinyMoe, {"mesh.ep=2"}, 4);
  EXPECT_EQ(job.mesh.dp, 4);
  EXPECT_EQ(job.mesh.ep, 2);
  EXPECT_EQ(job.mesh.edp(), 2);
  EXPECT_EQ(job.job.mesh().dp(), 4);
}

TEST(Config, WithoutAWorldTheMeshDecides) {
  EXPECT_EQ(Load(kTinyMoe, {"mesh.ep=2"}, 0).mesh.world_size(), 2);
  EXPECT_EQ(Load(kTinyMoe, {"mesh.ep=2", "mesh.dp=8"}, 0).mesh.world_size(), 8);
  EXPECT_EQ(Load(kTinyMoe, {}, 0).mesh.world_size(), 1);
}

TEST(Config, EveryDefaultIsWrittenOut) {
  const ResolvedJob job = Load(kTinyDense, {}, 2);
  for (const std::string& path : FieldPaths(*Job::descriptor(), /*with_blocks=*/false)) {
    const bool optional = path.starts_with("model.moe.") || path.starts_with("data.") ||
                          path == "model_file" || path == "schedule.layers_per_stage" ||
                          path == "schedule.file" || path == "faults.plan";
    if (!optional) {
      EXPECT_TRUE(IsGiven(job.job, path)) << path;
    }
  }
  EXPECT_FALSE(job.job.model().has_moe());
  EXPECT_EQ(job.job.model().head_size(), 16);
  EXPECT_EQ(job.sequence_length, 64);
}

TEST(Config, SequenceLengthDefaultsToTheModelsLongest) {
  const ScratchDirectory directory;
  const std::string path = directory.Write(
      "job.textproto",
      "data { synthetic {} } model { vocab_size: 8 hidden: 8 layers: 1 heads: 2 ffn_hidden: 8 "
      "max_positions: 24 }");
  const ResolvedJob job = Load(path, {}, 1);
  EXPECT_EQ(job.sequence_length, 24);
  EXPECT_EQ(job.job.name(), "job");
}

TEST(Config, BucketsAreLargerOnGpus) {
  const auto bucket_of = [](const std::string& device) {
    const ScratchDirectory run;
    run.Write("config.textproto",
              "data { synthetic {} } model { vocab_size: 8 hidden: 8 layers: 1 heads: 2 "
              "ffn_hidden: 8 max_positions: 24 } device: " +
                  device);
    Job job;
    std::vector<ConfigProblem> problems;
    EXPECT_TRUE(ReadKeptJob(run.path(), &job, &problems)) << Describe(problems, run.path());
    return job.communication().bucket_megabytes();
  };
  EXPECT_EQ(bucket_of("CPU"), 25);
  EXPECT_EQ(bucket_of("CUDA"), 250);
  EXPECT_EQ(Load(kTinyDense, {"communication.bucket_megabytes=3"}, 1)
                .job.communication()
                .bucket_megabytes(),
            3);
}

TEST(Config, JobFieldsGoOverModelFile) {
  const ScratchDirectory directory;
  directory.Write("model.textproto",
                  "vocab_size: 8 hidden: 8 layers: 1 heads: 2 ffn_hidden: 8 max_positions: 24");
  const std::string path = directory.Write(
      "job.textproto", "model_file: 'model.textproto' model { layers: 3 } data { synthetic {} }");
  EXPECT_EQ(Load(path, {}, 1).job.model().layers(), 3);
  EXPECT_EQ(Load(path, {"model.layers=5"}, 1).job.model().layers(), 5);
  EXPECT_EQ(Load(path, {"model.layers=5"}, 1).job.model().hidden(), 8);
}

TEST(Config, OverrideWinsAndLastOfSeveralCounts) {
  const ResolvedJob job =
      Load(kTinyDense,
           {"train.steps=7", "train.steps=9", "optimizer.decay=LINEAR", "name=other run",
            "optimizer.learning_rate=1e-4", "communication.overlap=false"},
           1);
  EXPECT_EQ(job.job.train().steps(), 9);
  EXPECT_EQ(job.job.optimizer().decay(), LINEAR);
  EXPECT_EQ(job.job.name(), "other run");
  EXPECT_EQ(job.job.optimizer().learning_rate(), 1e-4);
  EXPECT_FALSE(job.job.communication().overlap());
}

TEST(Config, OverrideReplacesListsAndRemovesBlocks) {
  const ScratchDirectory directory;
  const std::string a = directory.Write("a.tokens", "x"), b = directory.Write("b.tokens", "x");
  const ResolvedJob job = Load(
      kTinyDense,
      {"data.synthetic=", "data.train_files=" + a + "," + b, "data.validation_files=\"" + a + "\""},
      1);
  ASSERT_EQ(job.job.data().train_files_size(), 2);
  EXPECT_EQ(job.job.data().train_files(1), b);
  EXPECT_EQ(job.job.data().validation_files(0), a);
  EXPECT_FALSE(job.job.data().has_synthetic());
}

TEST(Config, OverriddenModelFileIsRelativeToTheWorkingDirectory) {
  const ScratchDirectory directory;
  const std::string path = directory.Write("job.textproto", "data { synthetic {} }");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(MUSTER_SOURCE_DIR);
  const ResolvedJob job = Load(path, {"model_file=configs/models/tiny-dense.textproto"}, 1);
  std::filesystem::current_path(before);
  EXPECT_EQ(job.job.model().name(), "tiny-dense");
}

TEST(Config, ResolvedTextLoadsToTheSameJob) {
  for (const std::string& path : {kTinyDense, kTinyMoe}) {
    const ResolvedJob job = Load(path, {"optimizer.beta2=0.987654321", "train.seed=77"}, 4);
    const ScratchDirectory directory;
    directory.Write("config.textproto", job.text);
    ResolvedJob again;
    std::vector<ConfigProblem> problems;
    ASSERT_TRUE(LoadResolvedJob(directory.path(), &again, &problems)) << Describe(problems, "");
    EXPECT_EQ(again.text, job.text);
    EXPECT_EQ(again.hash, job.hash);
    EXPECT_EQ(again.mesh.world_size(), 4);
    EXPECT_EQ(again.microbatch_sequences, job.microbatch_sequences);
    // Other programs read it with protobuf's own parser.
    Job parsed;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(job.text, &parsed));
    EXPECT_EQ(parsed.SerializeAsString(), job.job.SerializeAsString());
  }
}

TEST(Config, HashTellsJobsApartAndIsStable) {
  const uint64_t hash = Load(kTinyMoe, {}, 2).hash;
  EXPECT_EQ(Load(kTinyMoe, {}, 2).hash, hash);
  EXPECT_EQ(Load(kTinyMoe, {"train.seed=1234"}, 2).hash, hash) << "the default, given";
  EXPECT_NE(Load(kTinyMoe, {"train.seed=1235"}, 2).hash, hash);
  EXPECT_NE(Load(kTinyMoe, {"mesh.ep=2"}, 2).hash, hash);
  EXPECT_NE(Load(kTinyMoe, {}, 4).hash, hash);
}

TEST(Config, ResolvedJobOfARunNeedsNoDataFiles) {
  const ScratchDirectory directory, run;
  const std::string tokens = directory.Write("a.tokens", "x");
  const ResolvedJob job = Load(kTinyDense, {"data.synthetic=", "data.train_files=" + tokens}, 1);
  run.Write("config.textproto", job.text);
  std::filesystem::remove(tokens);
  ResolvedJob again;
  std::vector<ConfigProblem> problems;
  EXPECT_TRUE(LoadResolvedJob(run.path(), &again, &problems)) << Describe(problems, "");
}

TEST(Config, KeysAreFrozen) {
  std::ifstream file(MUSTER_SOURCE_DIR "/tests/golden/config_keys.txt");
  std::vector<std::string> golden;
  for (std::string line; std::getline(file, line);) golden.push_back(line);
  const std::vector<std::string> keys = ConfigKeys();
  for (size_t i = 0; i < std::max(golden.size(), keys.size()); ++i) {
    ASSERT_LT(i, keys.size()) << "a key that scripts use is gone: " << golden[i];
    ASSERT_LT(i, golden.size()) << "a new key: add to tests/golden/config_keys.txt: " << keys[i];
    ASSERT_EQ(keys[i], golden[i]) << "line " << i + 1 << " of tests/golden/config_keys.txt";
  }
}

}  // namespace
}  // namespace muster::runtime
