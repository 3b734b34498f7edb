// Logs of several ranks laid side by side: who left a call out, who never came, who waits for whom.
#include "parallel/comm/hang_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

namespace muster::parallel {
namespace {

using Kind = HangReport::Kind;

// The logs of `size` ranks that run `program`, up to the last call, which is in the state that
// Finish gives it.
class Ranks {
 public:
  explicit Ranks(int size) : size_(size), logs_(static_cast<size_t>(size)) {
    for (int rank = 0; rank < size; ++rank) {
      logs_[static_cast<size_t>(rank)] = std::make_unique<CollectiveLog>(64);
      std::vector<int> all;
      for (int other = 0; other < size; ++other) all.push_back(other);
      Log(rank).AddGroup({"dp", all});
      Log(rank).AddGroup({"world", all});
    }
    sequences_.resize(static_cast<size_t>(size));
  }
  CollectiveLog& Log(int rank) { return *logs_[static_cast<size_t>(rank)]; }
  void Call(int rank, const std::string& group, CollectivePlace place, int64_t bytes, bool done,
            CollectiveKind kind = CollectiveKind::kReduceScatter) {
    const CollectiveLog::At at(Log(rank), place);
    uint64_t& sequence = sequences_[static_cast<size_t>(rank)][group];
    const uint64_t id = Log(rank).Enqueued(group, sequence++, kind, bytes, group + ".cc:1");
    Log(rank).Started(id);
    if (done) Log(rank).Done(id, true);
  }
  // A step of three buckets of equal size and one call of the world; `skipped` is left out.
  void Step(int rank, int64_t step, int skipped = -1, int calls = 4) {
    for (int call = 0; call < calls; ++call) {
      if (call == skipped) continue;
      if (call < 3) {
        Call(rank, "dp", {.step = step, .bucket = call}, 64, true);
      } else {
        Call(rank, "world", {.step = step}, 8, true, CollectiveKind::kAllReduce);
      }
    }
  }
  std::vector<CollectiveRecord> Records(const std::vector<int>& silent = {}) {
    std::vector<CollectiveRecord> records;
    for (int rank = 0; rank < size_; ++rank) {
      if (std::count(silent.begin(), silent.end(), rank) > 0) continue;
      records.push_back({.rank = rank,
                         .world_size = size_,
                         .host = "a host",
                         .deadline_ms = 1000,
                         .written_ns = 7,
                         .groups = Log(rank).Groups(),
                         .calls = Log(rank).Entries()});
    }
    return records;
  }

 private:
  int size_;
  std::vector<std::unique_ptr<CollectiveLog>> logs_;
  std::vector<std::map<std::string, uint64_t>> sequences_;
};

std::vector<int> Deviating(const HangReport& report) {
  std::vector<int> ranks;
  for (const auto& deviation : report.deviations) ranks.push_back(deviation.rank);
  return ranks;
}

TEST(HangReport, NamesTheRankThatLeftOutACallOfEqualSize) {
  Ranks ranks(4);
  for (int rank = 0; rank < 4; ++rank) {
    ranks.Step(rank, 1);
    // Rank 2's buckets meet others of equal size, until one is missing at the end.
    ranks.Step(rank, 2, rank == 2 ? 1 : -1, 3);
    if (rank == 2) {
      ranks.Call(rank, "world", {.step = 2}, 8, false, CollectiveKind::kAllReduce);
    }
  }
  const HangReport report = ExplainHang(ranks.Records());
  EXPECT_EQ(report.kind, Kind::kDifferent);
  EXPECT_EQ(report.call.group, "dp");
  EXPECT_EQ(report.call.sequence, 4u);
  EXPECT_EQ(report.call.place, (CollectivePlace{.step = 2, .bucket = 1}));
  EXPECT_EQ(Deviating(report), std::vector<int>{2});
  EXPECT_TRUE(report.sure);
  EXPECT_TRUE(report.deviations[0].left_out);
  const std::string text = Describe(report);
  EXPECT_NE(text.find("reduce_scatter #4 of group dp, step 2, bucket 1, 64 bytes, from dp.cc:1"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("rank 2 left it out"), std::string::npos) << text;
}

// Of two ranks neither is the majority: their own order in step 1 tells.
TEST(HangReport, TellsByTheOrderOfEarlierStepsWhichOfTwoRanksIsWrong) {
  for (const int wrong : {0, 1}) {
    Ranks ranks(2);
    for (const int rank : {0, 1}) {
      ranks.Step(rank, 1);
      ranks.Call(rank, "dp", {.step = 2, .bucket = 0}, 64, true);
      ranks.Call(rank, "dp", {.step = 2, .bucket = rank == wrong ? 2 : 1}, 64, false);
    }
    const HangReport report = ExplainHang(ranks.Records());
    EXPECT_EQ(report.kind, Kind::kDifferent);
    EXPECT_TRUE(report.sure);
    EXPECT_EQ(Deviating(report), std::vector<int>{wrong});
    EXPECT_TRUE(report.deviations[0].left_out);
  }
}

// Calls of another group lie between those of dp, in the same order whether one is missing or not.
TEST(HangReport, TellsByTheOrderOfTheGroupWhichOfTwoRanksIsWrong) {
  for (const int wrong : {0, 1}) {
    Ranks ranks(2);
    for (const int rank : {0, 1}) {
      for (const int64_t step : {1, 2}) {
        for (int bucket = 0; bucket < 3; ++bucket) {
          ranks.Call(rank, "world", {.step = step}, 8, true, CollectiveKind::kAllReduce);
          if (rank == wrong && step == 2 && bucket == 1) continue;
          ranks.Call(rank, "dp", {.step = step, .bucket = bucket}, 64, step == 1 || bucket == 0);
          if (rank != wrong && step == 2 && bucket == 1) break;
        }
      }
    }
    const HangReport report = ExplainHang(ranks.Records());
    EXPECT_EQ(report.kind, Kind::kDifferent);
    EXPECT_TRUE(report.sure);
    EXPECT_EQ(report.call.place.bucket, 1);
    EXPECT_EQ(Deviating(report), std::vector<int>{wrong});
    EXPECT_TRUE(report.deviations[0].left_out);
  }
}

TEST(HangReport, BlamesNobodyWhenNothingTells) {
  Ranks ranks(2);
  ranks.Call(0, "dp", {.step = 1, .bucket = 0}, 64, false);
  ranks.Call(1, "dp", {.step = 1, .bucket = 1}, 64, false);
  const HangReport report = ExplainHang(ranks.Records());
  EXPECT_EQ(report.kind, Kind::kDifferent);
  EXPECT_FALSE(report.sure);
  EXPECT_NE(Describe(report).find("no earlier step tells"), std::string::npos);
}

// The last call of a step on one group is left out: all wait, in a circle.
TEST(HangReport, FindsTheRankThatLeftOutTheLastCallOfAGroup) {
  for (const int size : {2, 4}) {
    Ranks ranks(size);
    for (int rank = 0; rank < size; ++rank) {
      ranks.Step(rank, 1);
      ranks.Step(rank, 2, -1, 2);
      if (rank == 1) {
        ranks.Call(rank, "world", {.step = 2}, 8, false, CollectiveKind::kAllReduce);
      } else {
        ranks.Call(rank, "dp", {.step = 2, .bucket = 2}, 64, false);
      }
    }
    const HangReport report = ExplainHang(ranks.Records());
    EXPECT_EQ(report.kind, Kind::kCycle) << size;
    EXPECT_TRUE(report.sure) << size;
    EXPECT_EQ(Deviating(report), std::vector<int>{1}) << size;
    EXPECT_EQ(report.call.place.bucket, 2) << size;
    EXPECT_EQ(report.call.sequence, 5u) << size;
  }
}

TEST(HangReport, NamesARankWithoutALogThroughThoseThatWaitForIt) {
  Ranks ranks(4);
  for (int rank = 0; rank < 4; ++rank) {
    Ranks& r = ranks;
    r.Log(rank).AddGroup({"ep", rank < 2 ? std::vector<int>{0, 1} : std::vector<int>{2, 3}});
    r.Step(rank, 1);
  }
  // Rank 3 is stopped; 2 waits for it in ep, 0 and 1 wait for 2 (and 3) in dp.
  ranks.Call(2, "ep", {.step = 2, .layer = 5}, 32, false, CollectiveKind::kAllToAll);
  for (const int rank : {0, 1}) {
    ranks.Call(rank, "ep", {.step = 2, .layer = 5}, 32, true, CollectiveKind::kAllToAll);
    ranks.Call(rank, "dp", {.step = 2, .bucket = 0}, 64, false);
  }
  const HangReport report = ExplainHang(ranks.Records({3}));
  EXPECT_EQ(report.kind, Kind::kAbsent);
  EXPECT_EQ(Deviating(report), std::vector<int>{3});
  EXPECT_FALSE(report.deviations[0].has_log);
  EXPECT_EQ(report.silent, std::vector<int>{3});
  EXPECT_EQ(report.waits.size(), 3u);
  EXPECT_NE(Describe(report).find("stopped, dead or cut off"), std::string::npos);
}

TEST(HangReport, NamesARankThatIsInNoCall) {
  Ranks ranks(3);
  for (int rank = 0; rank < 3; ++rank) {
    ranks.Step(rank, 1);
    if (rank != 1) ranks.Call(rank, "dp", {.step = 2, .bucket = 0}, 64, false);
  }
  const HangReport report = ExplainHang(ranks.Records());
  EXPECT_EQ(report.kind, Kind::kAbsent);
  EXPECT_EQ(Deviating(report), std::vector<int>{1});
  EXPECT_FALSE(report.deviations[0].waits);
  EXPECT_NE(Describe(report).find("rank 1 has not come to it, and is in no call"),
            std::string::npos);
}

TEST(HangReport, MeetsSendsWithReceivesByTheirOwnNumbers) {
  Ranks ranks(2);
  for (const int rank : {0, 1}) {
    const auto kind = rank == 0 ? CollectiveKind::kSend : CollectiveKind::kReceive;
    for (int message = 0; message < 3; ++message) {
      if (rank == 0 && message == 2) break;  // the third is never sent
      const uint64_t id = ranks.Log(rank).Enqueued("dp", 0, kind, 16, "pp.cc:3", 1 - rank);
      ranks.Log(rank).Started(id);
      if (message < 2) ranks.Log(rank).Done(id, true);
    }
  }
  const HangReport report = ExplainHang(ranks.Records());
  EXPECT_EQ(report.kind, Kind::kAbsent);
  EXPECT_EQ(report.call.kind, CollectiveKind::kReceive);
  EXPECT_EQ(report.call.pair_sequence, 2u);
  EXPECT_EQ(Deviating(report), std::vector<int>{0});
}

// Stages of a pipeline may make one call of the world from different lines, every step.
TEST(HangReport, DoesNotTakeADifferenceOfPlaceThatEndsAgainForACause) {
  Ranks ranks(2);
  for (const int rank : {0, 1}) {
    ranks.Call(rank, "world", {.step = 1, .layer = rank}, 8, true);
    ranks.Call(rank, "world", {.step = 1}, 8, true);
    ranks.Call(rank, "world", {.step = 2, .layer = rank}, 8, true);
    ranks.Call(rank, "world", {.step = 2}, 8, true);
  }
  ranks.Call(0, "dp", {.step = 2, .bucket = 0}, 64, false);
  const HangReport report = ExplainHang(ranks.Records());
  EXPECT_EQ(report.kind, Kind::kAbsent);
  EXPECT_EQ(report.call.group, "dp");
}

TEST(HangReport, SaysThatNothingHangs) {
  Ranks ranks(2);
  for (const int rank : {0, 1}) ranks.Step(rank, 1);
  EXPECT_EQ(ExplainHang(ranks.Records()).kind, Kind::kNone);
  EXPECT_EQ(ExplainHang({}).kind, Kind::kNone);
}

TEST(CollectiveRecord, ReadsWhatItWrote) {
  Ranks ranks(2);
  ranks.Step(1, 3);
  ranks.Log(1).Enqueued("dp", 4, CollectiveKind::kSend, 16, "a b.cc:3", 0);
  const CollectiveRecord before = ranks.Records()[1];
  const auto after = DecodeCollectiveRecord(Encode(before));
  ASSERT_TRUE(after.ok()) << after.status().ToString();
  EXPECT_EQ(Encode(*after), Encode(before));
  EXPECT_EQ(after->groups, before.groups);
  ASSERT_EQ(after->calls.size(), before.calls.size());
  for (size_t i = 0; i < before.calls.size(); ++i) {
    EXPECT_EQ(Describe(after->calls[i]).substr(0, 30), Describe(before.calls[i]).substr(0, 30));
    EXPECT_EQ(after->calls[i].done_ns, before.calls[i].done_ns);
    EXPECT_EQ(after->calls[i].place, before.calls[i].place);
  }
}

TEST(CollectiveRecord, RefusesTornAndWrongLines) {
  Ranks ranks(2);
  ranks.Step(0, 3);
  const std::string good = Encode(ranks.Records()[0]);
  for (size_t size = 0; size + 1 < good.size(); size += 7) {
    EXPECT_FALSE(DecodeCollectiveRecord(good.substr(0, size)).ok()) << size;
  }
  std::string wrong = good;
  wrong.replace(wrong.find("reduce_scatter"), 6, "xxxxxx");
  EXPECT_FALSE(DecodeCollectiveRecord(wrong).ok());
  wrong = good;
  wrong.replace(wrong.find("rank 0 of 2"), 11, "rank 2 of 2");
  EXPECT_FALSE(DecodeCollectiveRecord(wrong).ok());
}

}  // namespace
}  // namespace muster::parallel
