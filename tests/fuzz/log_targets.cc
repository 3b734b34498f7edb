// What runs leave behind: ledgers and collective logs.
#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "kernels/base/error.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/hang_report.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/report.h"
#include "runtime/goodput/supervisor_ledger.h"
#include "runtime/goodput/supervisor_record.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {
namespace {

// Reads the bytes as (type, time, length, payload) and gives each record its checksum.
std::string WithChecksums(std::string_view bytes) {
  std::string out;
  while (bytes.size() >= 4) {
    int64_t at_ns = 0;
    std::memcpy(&at_ns, bytes.data() + 1, 2);
    const size_t length =
        std::min({static_cast<size_t>(static_cast<unsigned char>(bytes[3])), bytes.size() - 4,
                  runtime::kMaxRecordBytes - runtime::kRecordHeaderBytes});
    runtime::RecordBuilder record(static_cast<runtime::RecordType>(bytes[0]), at_ns * 1'000'000,
                                  at_ns * 1'000'000);
    for (const char c : bytes.substr(4, length)) record.PutU8(static_cast<uint8_t>(c));
    out += record.Finish();
    bytes.remove_prefix(4 + length);
  }
  return out;
}

// Where the next record of type `begin` starts behind `at`: another file's first.
size_t NextBegin(std::string_view file, size_t at) {
  for (++at; at < file.size(); ++at) {
    const auto record = runtime::ParseRecord(file.substr(at));
    if (!record) continue;
    if (record->type == static_cast<uint8_t>(runtime::RecordType::kAttemptBegin) ||
        record->type == static_cast<uint8_t>(runtime::SupervisorRecord::kBegin)) {
      return at;
    }
  }
  return at;
}

}  // namespace

int Ledger(std::string_view bytes) {
  if (bytes.empty()) return 0;
  const bool raw = bytes[0] % 2 == 0;
  const std::string file = raw ? std::string(bytes.substr(1)) : WithChecksums(bytes.substr(1));
  std::map<int, std::vector<runtime::RankLedger>> ranks;
  std::vector<runtime::SupervisorLog> supervisors;
  // Records of both kinds may stand in one file: each reader takes its own.
  for (size_t at = 0; at < file.size(); at = NextBegin(file, at)) {
    auto rank = runtime::ParseRankLedger(std::string_view(file).substr(at));
    auto supervisor = runtime::ParseSupervisorLedger(std::string_view(file).substr(at));
    if (supervisor.ok()) supervisors.push_back(*std::move(supervisor));
    if (!rank.ok()) continue;
    MUSTER_CHECK(rank->records >= 1);
    std::vector<runtime::RankLedger>& attempt = ranks[rank->begin.attempt];
    if (attempt.empty() || (rank->begin.rank > attempt.back().begin.rank &&
                            rank->begin.world_size == attempt[0].begin.world_size)) {
      attempt.push_back(*std::move(rank));
    }
  }
  const auto report =
      runtime::MakeReport("fuzz", {runtime::JoinLedgers(std::move(ranks), supervisors), {}});
  // Time is conserved whatever the ledgers say.
  MUSTER_CHECK(report.status().code() != absl::StatusCode::kInternal) << report.status();
  if (!report.ok()) return 0;
  (void)runtime::RenderText(*report);
  (void)runtime::RenderJson(*report);
  return 0;
}

// Two ranks' logs, one after the other, explained together.
int CollectiveRecord(std::string_view bytes) {
  const std::string text(bytes);
  const size_t middle = text.find("end\n");
  std::vector<parallel::CollectiveRecord> records;
  auto first = parallel::DecodeCollectiveRecord(text);
  if (!first.ok()) return 0;
  MUSTER_CHECK_OK(parallel::DecodeCollectiveRecord(parallel::Encode(*first)).status());
  records.push_back(*std::move(first));
  auto second = parallel::DecodeCollectiveRecord(text.substr(std::min(text.size(), middle + 4)));
  if (second.ok()) records.push_back(*std::move(second));
  if (records[0].world_size > 1000) return 0;
  (void)parallel::Describe(parallel::ExplainHang(records));
  return 0;
}

}  // namespace muster::fuzz
