#include "runtime/train/step_trace.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace muster::runtime {
namespace {

using Json = nlohmann::json;

TEST(TraceEvents, AreMicrosecondsFromTheOriginWithRates) {
  TracedRank rank{.rank = 3,
                  .label = "rank 3 of 4 on \"node\"",
                  .rows = {"compute", "comm"},
                  .dropped = 2,
                  .origin_ns = 1'000'000};
  rank.intervals = {{.row = 0,
                     .name = "Matmul",
                     .work = {.flops = 4e6,
                              .bytes = 8e3,
                              .detail = "8 x 8",
                              .kind = kernels::TraceKind::kOperator},
                     .begin_ns = 1'002'500,
                     .end_ns = 1'004'500},
                    {.row = 1,
                     .name = "reduce_scatter",
                     .work = {.detail = "dp 64 bytes", .kind = kernels::TraceKind::kCollective},
                     .begin_ns = 1'003'000,
                     .end_ns = 1'003'100}};
  std::string text = TraceEvents(rank);
  ASSERT_TRUE(text.ends_with(",\n"));
  text.resize(text.size() - 2);
  const Json events = Json::parse("[" + text + "]");
  const auto find = [&](const std::string& name) {
    for (const Json& event : events) {
      if (event["name"] == name) return event;
    }
    return Json();
  };
  EXPECT_EQ(find("process_name")["args"]["name"], rank.label);
  EXPECT_NE(find("process_labels")["args"]["labels"].get<std::string>().find("2 intervals"),
            std::string::npos);
  const Json matmul = find("Matmul"), reduce = find("reduce_scatter");
  EXPECT_EQ(matmul["ph"], "X");
  EXPECT_EQ(matmul["cat"], "operator");
  EXPECT_EQ(matmul["pid"], 4);
  EXPECT_DOUBLE_EQ(matmul["ts"], 2.5);
  EXPECT_DOUBLE_EQ(matmul["dur"], 2.0);
  EXPECT_DOUBLE_EQ(matmul["args"]["TFLOP/s"], 2.0);
  EXPECT_DOUBLE_EQ(matmul["args"]["GB/s"], 4.0);
  EXPECT_EQ(reduce["cat"], "collective");
  EXPECT_EQ(reduce["pid"], matmul["pid"]);
  EXPECT_EQ(reduce["tid"], matmul["tid"].get<int>() + 1);
  EXPECT_EQ(reduce["args"]["what"], "dp 64 bytes");
}

// Readers tell rows apart by their number alone, and take process 0 for the idle one.
TEST(TraceEvents, OfTwoRanksShareNoProcessAndNoRow) {
  std::set<int> processes, rows;
  for (int rank = 0; rank < 3; ++rank) {
    std::string text = TraceEvents({.rank = rank, .label = "rank", .rows = {"compute", "comm"}});
    text.resize(text.size() - 2);
    std::set<int> own_processes, own_rows;
    for (const Json& event : Json::parse("[" + text + "]")) {
      own_processes.insert(event["pid"].get<int>());
      if (event["name"] == "thread_name") own_rows.insert(event["tid"].get<int>());
    }
    EXPECT_EQ(own_processes.size(), 1u);
    EXPECT_EQ(own_rows.size(), 2u);
    processes.merge(own_processes);
    rows.merge(own_rows);
  }
  EXPECT_EQ(processes.size(), 3u);
  EXPECT_EQ(rows.size(), 6u);
  EXPECT_EQ(processes.count(0) + rows.count(0), 0u);
}

}  // namespace
}  // namespace muster::runtime
