#include "launch/commands/bench.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/bench/step.h"
#include "launch/command_line.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome RunBench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "bench");
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeBench());
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = RunCommandLine(arguments, std::move(commands), {out, err});
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

// Rates, limits and percentages belong together, and every row has them.
void ExpectRates(const nlohmann::json& table, size_t num_rows) {
  ASSERT_EQ(table["rows"].size(), num_rows);
  for (const auto& row : table["rows"]) {
    EXPECT_GT(row["seconds"].get<double>(), 0) << row;
    EXPECT_GT(row["rate"].get<double>(), 0) << row;
    EXPECT_NEAR(row["percent_of_limit"].get<double>(),
                100 * row["rate"].get<double>() / row["limit"].get<double>(), 1e-9);
  }
}

TEST(BenchCommand, GemmGivesThreeProductsAShape) {
  const Outcome outcome =
      RunBench({"gemm", "--device", "cpu", "--json", "--shape", "64x48x32", "--shape", "32x32x32"});
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  const auto table = nlohmann::json::parse(outcome.out);
  ExpectRates(table, 6);
  const std::string ceilings = table["facts"]["ceilings"];
  EXPECT_NE(ceilings.find("TFLOP/s of 1024^3 products"), std::string::npos) << ceilings;
  EXPECT_NE(ceilings.find("GB/s of a copy"), std::string::npos) << ceilings;
  EXPECT_EQ(table["rows"][0]["name"], "64 x 48 x 32 input gradient");
  EXPECT_EQ(table["facts"]["dtype"], "fp32");
  const double flops =
      table["rows"][0]["rate"].get<double>() * 1e12 * table["rows"][0]["seconds"].get<double>();
  EXPECT_NEAR(flops, 2.0 * 64 * 48 * 32, 1);
}

TEST(BenchCommand, AttentionGivesForwardAndBackward) {
  const Outcome outcome =
      RunBench({"attention", "--device", "cpu", "--json", "--shape", "1x32x4x2x8"});
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  ExpectRates(nlohmann::json::parse(outcome.out), 2);
}

TEST(BenchCommand, AttentionTakesAHeadSizeOfTheValues) {
  const Outcome outcome =
      RunBench({"attention", "--device", "cpu", "--json", "--shape", "1x32x4x2x24x16"});
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  const auto table = nlohmann::json::parse(outcome.out);
  ExpectRates(table, 2);
  EXPECT_EQ(table["rows"][0]["name"], "b1 s32 h4/2 d24/16 causal forward");
  const double flops =
      table["rows"][0]["rate"].get<double>() * 1e12 * table["rows"][0]["seconds"].get<double>();
  EXPECT_NEAR(flops, 4.0 * 32 * 32 * (24 + 16), 1);
}

TEST(BenchCommand, WrongShapesAndDevicesAreNamed) {
  for (const char* shape : {"64x48", "64x48x32x1", "64x0x32", "64xx32", "axbxc", ""}) {
    const Outcome outcome = RunBench({"gemm", "--device", "cpu", "--shape", shape});
    EXPECT_EQ(outcome.code, kExitUsage) << shape;
    EXPECT_NE(outcome.err.find("wanted MxNxK"), std::string::npos) << outcome.err;
  }
  const Outcome outcome = RunBench({"gemm", "--device", "tpu"});
  EXPECT_EQ(outcome.code, kExitUsage);
  EXPECT_NE(outcome.err.find("--device tpu"), std::string::npos) << outcome.err;
}

TEST(BenchCommand, CollectivesWantSeveralRanks) {
  const Outcome outcome = RunBench({"collectives", "--device", "cpu"});
  EXPECT_EQ(outcome.code, kExitFailure);
  EXPECT_NE(outcome.err.find("mpirun -np N"), std::string::npos) << outcome.err;
}

TEST(BenchCommand, CollectivesReadCommunicationOnly) {
  struct {
    const char* override_text;
    const char* wanted;
  } const cases[] = {{"mesh.tp=2", "--set mesh.tp: wanted a field of communication"},
                     {"communication.ncl.max_ctas=2", "did you mean communication.nccl"},
                     {"communication.nccl.max_ctas=65", "at most 64"},
                     {"communication.nccl.max_ctas=2", "device is CPU"}};
  for (const auto& [override_text, wanted] : cases) {
    const Outcome outcome = RunBench({"collectives", "--device", "cpu", "--set", override_text});
    EXPECT_EQ(outcome.code, kExitUsage) << override_text;
    EXPECT_NE(outcome.err.find(wanted), std::string::npos) << outcome.err;
  }
  const Outcome outcome =
      RunBench({"collectives", MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto", "--device",
                "cpu", "--set", "communication.deadline_seconds=9"});
  EXPECT_NE(outcome.err.find("mpirun -np N"), std::string::npos) << outcome.err;
}

TEST(BenchCommand, StepSaysWhereTheTimeOfOneStepGoes) {
  const std::string run = MUSTER_BINARY_DIR "/bench_test_run";
  std::filesystem::remove_all(run);
  const Outcome outcome =
      RunBench({"step", MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto", "--json", "--steps",
                "2", "--run", run, "--set", "train.global_batch_sequences=2", "--set",
                "train.sequence_length=32", "--set", "data.synthetic.tokens=10000"});
  std::filesystem::remove_all(run);
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  const auto table = nlohmann::json::parse(outcome.out);
  std::string names;
  for (const auto& row : table["rows"]) names += row["name"].get<std::string>() + "\n";
  for (const char* wanted : {"compute: Matmul ", "compute: AdamW", "compute: AttentionBackward",
                             "compute: CrossEntropyStats", "compute: (idle)"}) {
    EXPECT_NE(names.find(wanted), std::string::npos) << wanted << " in\n" << names;
  }
  EXPECT_EQ(names.find("compute: optimizer\n"), std::string::npos) << "a span holds operators";
  const double start_seconds = std::stod(table["facts"]["start"].get<std::string>());
  EXPECT_GT(start_seconds, 0);
  EXPECT_LT(start_seconds, 600) << "this process began no longer ago";
}

TEST(BenchTable, HasClockAndPowerWhereTheyAreKnown) {
  BenchTable table;
  table.rows.push_back({.name = "known", .seconds = 1, .gauges = {1755, 698.4}});
  table.rows.push_back({.name = "unknown", .seconds = 1});
  const std::string text = RenderText(table);
  EXPECT_NE(text.find("1000.0000 ms  1755 MHz 698 W\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("MHz", text.find("unknown")), std::string::npos) << text;
  const auto rows = nlohmann::json::parse(RenderJson(table))["rows"];
  EXPECT_EQ(rows[0]["sm_clock_mhz"], 1755);
  EXPECT_EQ(rows[0]["power_watts"], 698.4);
  EXPECT_TRUE(rows[1]["sm_clock_mhz"].is_null() && rows[1]["power_watts"].is_null());
}

TEST(SumByOperator, CountsInnermostIntervalsOnceAndWhatIsBetweenThemAsIdle) {
  using Interval = kernels::Trace::Interval;
  const std::vector<Interval> intervals = {
      {.row = 0, .depth = 0, .name = "span", .begin_ns = 1000, .end_ns = 9000},
      {.row = 0,
       .depth = 1,
       .name = "op",
       .work = {.bytes = 4e3},
       .begin_ns = 2000,
       .end_ns = 4000},
      {.row = 1, .depth = 0, .name = "op", .begin_ns = 2000, .end_ns = 3000},
      {.row = 0,
       .depth = 1,
       .name = "op",
       .work = {.bytes = 4e3},
       .begin_ns = 5000,
       .end_ns = 7000}};
  const auto table = SumByOperator(intervals, {{{}, "compute"}, {{}, "comm"}},
                                   {.matmul_flops = 1, .copy_bytes = 4e9});
  ASSERT_EQ(table.size(), 3u);
  EXPECT_EQ(table[0].name, "compute: op");
  EXPECT_EQ(table[0].calls, 2);
  EXPECT_NEAR(table[0].seconds, 4e-6, 1e-12);
  EXPECT_NEAR(table[0].rate, 2, 1e-9);  // GB/s
  EXPECT_NEAR(table[0].limit, 4, 1e-9);
  EXPECT_EQ(table[1].name, "comm: op");
  EXPECT_EQ(table[2].name, "compute: (idle)");
  EXPECT_NEAR(table[2].seconds, 4e-6, 1e-12);
}

}  // namespace
}  // namespace muster::launch
