#include "runtime/train/metrics.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "runtime/train/progress.h"
#include "tests/support/runtime/file_size_limit.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

using nlohmann::json;

StepMetrics ExampleStep() {
  StepMetrics metrics;
  metrics.step = 120;
  metrics.attempt = 2;
  metrics.loss = 3.4123456789012345;
  metrics.grad_norm = 0.9099999999999999;
  metrics.learning_rate = 3e-4;
  metrics.tokens = 8242;
  metrics.step_seconds = 0.2;
  metrics.mfu = 0.521;
  metrics.mfu_full_attention = 0.55;
  metrics.hfu = 0.6;
  metrics.goodput = 0.4873;
  using namespace parallel;
  metrics.breakdown_seconds[kCompute] = 0.2 * 0.912;
  metrics.breakdown_seconds[kExposedDp] = 0.2 * 0.021;
  metrics.breakdown_seconds[kExposedEp] = 0.2 * 0.010;
  metrics.breakdown_seconds[kBubble] = 0.2 * 0.020;
  metrics.breakdown_seconds[kImbalance] = 0.2 * 0.036;
  metrics.breakdown_seconds[kData] = 0.2 * 0.001;
  return metrics;
}

ResolvedJob ExampleJob() {
  ResolvedJob job;
  job.job.mutable_train()->set_steps(500);
  job.job.mutable_log()->set_progress(false);
  return job;
}

TEST(Metrics, StepLineHasTheContractsFields) {
  const json line = json::parse(StepLine(ExampleStep()));
  for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second",
                          "step_seconds", "mfu", "goodput", "breakdown", "loss_bits",
                          "grad_norm_bits", "attempt", "mfu_full", "hfu", "aux_loss", "z_loss"}) {
    EXPECT_TRUE(line.contains(key)) << key;
  }
  std::set<std::string> parts;
  double sum = 0;
  for (const auto& [name, seconds] : line["breakdown"].items()) {
    parts.insert(name);
    sum += seconds.get<double>();
  }
  const std::set<std::string> wanted = {"compute",    "exposed_dp", "exposed_tp", "exposed_cp",
                                        "exposed_pp", "exposed_ep", "bubble",     "imbalance",
                                        "data",       "optimizer",  "checkpoint", "other"};
  EXPECT_EQ(parts, wanted);
  EXPECT_NEAR(sum, line["step_seconds"].get<double>(), 1e-12);
  EXPECT_DOUBLE_EQ(line["tokens_per_second"].get<double>(), 41210);
  EXPECT_FALSE(line.contains("moe"));  // a dense model
}

TEST(Metrics, LossAndGradientNormRestoreTheirBits) {
  for (const double value : {3.4123456789012345, 1e-310, 0.1 + 0.2, -0.0}) {
    StepMetrics metrics = ExampleStep();
    metrics.loss = metrics.grad_norm = value;
    const json line = json::parse(StepLine(metrics));
    const uint64_t bits = std::bit_cast<uint64_t>(value);
    EXPECT_EQ(std::bit_cast<uint64_t>(line["loss"].get<double>()), bits);
    EXPECT_EQ(std::stoull(line["loss_bits"].get<std::string>(), nullptr, 16), bits);
    EXPECT_EQ(std::stoull(line["grad_norm_bits"].get<std::string>(), nullptr, 16), bits);
  }
}

TEST(Metrics, ALossThatIsNotFiniteIsNullButItsBitsRemain) {
  StepMetrics metrics = ExampleStep();
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  const json line = json::parse(StepLine(metrics));
  EXPECT_TRUE(line["loss"].is_null());
  const uint64_t bits = std::stoull(line["loss_bits"].get<std::string>(), nullptr, 16);
  EXPECT_TRUE(std::isnan(std::bit_cast<double>(bits)));
}

TEST(Metrics, MoeFieldsAppearWithExperts) {
  StepMetrics metrics = ExampleStep();
  metrics.expert_imbalance = {1.25, 2.5};
  metrics.dropped_tokens = 3;
  const json line = json::parse(StepLine(metrics));
  EXPECT_EQ(line["moe"]["imbalance"], json({1.25, 2.5}));
  EXPECT_EQ(line["moe"]["dropped"], 3);
}

TEST(Metrics, FilesHoldALineAStepAndEvaluationsApart) {
  const ScratchDirectory scratch;
  const std::string run = scratch.path() + "/run";
  {
    auto writer = MetricsWriter::Create(run, ExampleJob());
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int step = 1; step <= 3; ++step) {
      StepMetrics metrics = ExampleStep();
      metrics.step = step;
      (*writer)->Step(metrics);
    }
    (*writer)->Evaluation({3, 2.5, 4.0});
  }
  std::istringstream lines(ReadWhole(run + "/metrics.jsonl"));
  int steps = 0;
  for (std::string line; std::getline(lines, line);) EXPECT_EQ(json::parse(line)["step"], ++steps);
  EXPECT_EQ(steps, 3);
  const json evaluation = json::parse(ReadWhole(run + "/evaluations.jsonl"));
  EXPECT_EQ(evaluation["step"], 3);
  EXPECT_EQ(evaluation["validation_loss"], 2.5);
  EXPECT_FALSE(std::filesystem::is_empty(run + "/tensorboard"));
}

TEST(Metrics, ATornLastLineIsCutBeforeTheNextAttemptAppends) {
  const ScratchDirectory scratch;
  WriteWhole(scratch.path() + "/metrics.jsonl", "{\"step\":1}\n{\"step\":2,\"lo");
  auto writer = MetricsWriter::Create(scratch.path(), ExampleJob());
  ASSERT_TRUE(writer.ok()) << writer.status();
  (*writer)->Step(ExampleStep());
  std::istringstream lines(ReadWhole(scratch.path() + "/metrics.jsonl"));
  std::string first, second, third;
  ASSERT_TRUE(std::getline(lines, first) && std::getline(lines, second));
  EXPECT_EQ(json::parse(first)["step"], 1);
  EXPECT_EQ(json::parse(second)["step"], 120);
  EXPECT_FALSE(std::getline(lines, third));
}

TEST(Metrics, AFullDiskTearsNoLineAndLosesNone) {
  const ScratchDirectory scratch;
  const std::string path = scratch.File("metrics.jsonl");
  auto writer = MetricsWriter::Create(scratch.path(), ExampleJob());
  ASSERT_TRUE(writer.ok()) << writer.status();
  StepMetrics metrics = ExampleStep();
  const auto write = [&](int first, int last) {
    for (metrics.step = first; metrics.step <= last; ++metrics.step) (*writer)->Step(metrics);
  };
  const auto steps = [&] {
    int count = 0;
    std::istringstream lines(ReadWhole(path));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_EQ(json::parse(line)["step"], ++count);
    }
    return count;
  };
  write(1, 50);  // beyond what the log below takes
  {
    const FileSizeLimit full(std::filesystem::file_size(path) + 100);
    testing::internal::CaptureStderr();
    write(51, 60);
    const std::string log = testing::internal::GetCapturedStderr();
    const size_t named = log.find(path);
    EXPECT_NE(named, std::string::npos) << log;
    EXPECT_EQ(log.find(path, named + 1), std::string::npos) << log;
  }
  EXPECT_EQ(steps(), 50);
  write(61, 70);
  EXPECT_EQ(steps(), 70);
}

TEST(Metrics, ARunDirectoryThatCannotBeWrittenIsNamed) {
  const auto writer = MetricsWriter::Create("/proc/no/such/run", ExampleJob());
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(writer.status().message().find("/proc/no/such/run"), absl::string_view::npos);
}

TEST(Progress, LineReadsAsDocumented) {
  EXPECT_EQ(ProgressLine(ExampleStep(), 500),
            "step 120/500  loss 3.412  lr 3.0e-4  grad 0.91  tok/s 41,210  MFU 52.1 %  goodput "
            "0.487 | compute 91.2 comm 3.1 bubble 2.0 imbalance 3.6 data 0.1");
}

TEST(Progress, LineNamesWhatIsLeftAndASkippedStep) {
  StepMetrics metrics = ExampleStep();
  metrics.breakdown_seconds[parallel::kOptimizer] = 0.05;
  metrics.skipped = true;
  const std::string line = ProgressLine(metrics, 500);
  EXPECT_NE(line.find("data 0.1 rest 20.0  SKIPPED"), std::string::npos) << line;
}

TEST(Progress, BarFitsItsColumnsAndFillsWithTheSteps) {
  EXPECT_EQ(ProgressBar(1, 4, 190, 80),
            "[##########..............................]   25 %  "
            "3 min 10 s left");
  EXPECT_EQ(ProgressBar(4, 4, -1, 80), "[" + std::string(40, '#') + "]  100 %");
  for (int columns = 0; columns < 100; ++columns) {
    EXPECT_LE(ProgressBar(3, 7, 4000, columns).size(), static_cast<size_t>(columns));
  }
}

std::string WrittenToPipe(int64_t every_steps, int64_t steps) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  {
    Progress progress(ends[1], steps, every_steps);
    for (int64_t step = 1; step <= steps; ++step) {
      StepMetrics metrics = ExampleStep();
      metrics.step = step;
      progress.Step(metrics);
    }
  }
  close(ends[1]);
  std::string text(1 << 16, '\0');
  text.resize(static_cast<size_t>(read(ends[0], text.data(), text.size())));
  close(ends[0]);
  return text;
}

TEST(Progress, PlainLinesComeEveryFewStepsAndAtTheEnd) {
  const std::string text = WrittenToPipe(4, 10);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  for (const char* step : {"step  4/10", "step  8/10", "step 10/10"}) {
    EXPECT_NE(text.find(step), std::string::npos) << text;
  }
  EXPECT_EQ(text.find('\x1b'), std::string::npos);  // no terminal codes in a log
}

// What a pseudo-terminal with this many columns shows of one step.
std::string ShownOn(unsigned short columns) {
  int controller = -1, terminal = -1;
  winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  EXPECT_EQ(openpty(&controller, &terminal, nullptr, nullptr, &size), 0);
  {
    Progress progress(terminal, 2, 1);
    StepMetrics metrics = ExampleStep();
    metrics.step = 1;
    progress.Step(metrics);
  }
  close(terminal);  // so that reads end, with EIO, behind the last of what it was shown
  std::string text;
  char piece[4096];
  for (ssize_t n; (n = read(controller, piece, sizeof piece)) > 0;) {
    text.append(piece, static_cast<size_t>(n));
  }
  close(controller);
  return text;
}

TEST(Progress, ATerminalHasABarBeneathTheLines) {
  const std::string text = ShownOn(90);
  EXPECT_NE(text.find("step 1/2"), std::string::npos);
  EXPECT_NE(text.find("50 %  0.20 s left"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\x1b[K"));  // and leaves nothing behind
}

TEST(Progress, ATerminalWithoutSizeIsALauncherAtAFile) {
  const std::string text = ShownOn(0);
  EXPECT_NE(text.find("step 1/2"), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
}

}  // namespace
}  // namespace muster::runtime
