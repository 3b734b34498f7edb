// The trace of a step that all ranks made together.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/train/trainer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::json;
using parallel::TestWorld;

// On rank 0: the trace of step 2 of a run of 3. All ranks call it.
Json TraceOf(std::vector<std::string> overrides) {
  overrides.insert(overrides.begin(), {"goodput.peak=0.1", "log.progress=false", "train.steps=3",
                                       "log.trace_step=2", "train.global_batch_sequences=12",
                                       "schedule.microbatches=1", "evaluate.sequences=4"});
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-dense.textproto";
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, TestWorld().size(), &job, &problems))
      << Describe(problems, path);
  const std::string directory = SharedTemporaryDirectory(TestWorld());
  {
    auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    MUSTER_CHECK_OK(trainer.status());
    MUSTER_CHECK_OK((*trainer)->Run().status());
  }
  MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  Json trace;
  if (TestWorld().rank() == 0) {
    std::ifstream file(directory + "/trace.step-2.json");
    trace = Json::parse(file);
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      files += entry.path().filename().string().starts_with("trace") ? 1 : 0;
    }
    EXPECT_EQ(files, 1u) << "parts are left behind";
    std::filesystem::remove_all(directory);
  }
  return trace;
}

double End(const Json& event) { return event["ts"].get<double>() + event["dur"].get<double>(); }

TEST(StepTrace, HoldsEveryRanksRowsOnOneClock) {
  const Json trace = TraceOf({});
  if (TestWorld().rank() != 0) return;
  std::map<int, std::set<std::string>> rows, names;
  std::map<int, std::pair<double, double>> extent;  // of each rank's step
  for (const Json& event : trace["traceEvents"]) {
    const int rank = event["pid"].get<int>() - 1;
    if (event["name"] == "thread_name") rows[rank].insert(event["args"]["name"]);
    if (event["ph"] != "X") continue;
    EXPECT_GE(event["dur"].get<double>(), 0);
    names[rank].insert(event["name"]);
    auto [it, first] = extent.try_emplace(rank, event["ts"], End(event));
    it->second.first = std::min(it->second.first, event["ts"].get<double>());
    it->second.second = std::max(it->second.second, End(event));
  }
  ASSERT_EQ(extent.size(), static_cast<size_t>(TestWorld().size()));
  for (const auto& [rank, span] : extent) {
    SCOPED_TRACE(rank);
    EXPECT_EQ(rows[rank], (std::set<std::string>{"compute", "comm"}));
    for (const char* wanted : {"forward", "backward", "optimizer", "Matmul", "AdamW", "data"}) {
      EXPECT_EQ(names[rank].count(wanted), 1u) << wanted;
    }
    EXPECT_EQ(names[rank].count("reduce_scatter"), TestWorld().size() > 1 ? 1u : 0u);
    // All ranks wait for each other in the step, so on one clock their steps overlap.
    EXPECT_GT(span.first, -1e6);
    EXPECT_LT(span.first, extent[0].second);
    EXPECT_GT(span.second, extent[0].first);
  }
}

TEST(StepTrace, ShowsReductionsUnderTheBackward) {
  if (TestWorld().size() != 2) GTEST_SKIP() << "wants two ranks, one for each core";
  const Json trace = TraceOf({"model.hidden=256", "model.heads=4", "model.ffn_hidden=1024",
                              "model.layers=6", "communication.bucket_megabytes=2"});
  if (TestWorld().rank() != 0) return;
  int hidden = 0, reductions = 0;
  for (const Json& pass : trace["traceEvents"]) {
    if (pass["name"] != "backward") continue;
    for (const Json& event : trace["traceEvents"]) {
      if (event["name"] != "reduce_scatter" || event["pid"] != pass["pid"]) continue;
      ++reductions;
      EXPECT_EQ(event["tid"], pass["tid"].get<int>() + 1);
      hidden += event["ts"] >= pass["ts"] && End(event) <= End(pass) ? 1 : 0;
    }
  }
  EXPECT_GE(reductions, 12);  // buckets of two ranks
  EXPECT_GE(hidden, 1);
}

}  // namespace
}  // namespace muster::runtime
