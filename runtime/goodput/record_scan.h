#pragma once
// Walks the records of one ledger file, which may come from anywhere: damage is bounded to the
// records that it hit, as the walk goes on at the next whole one.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/goodput/ledger_record.h"

namespace muster::runtime {

// Far above any clock, and far enough below 2^63 that sums and differences of times cannot wrap.
constexpr int64_t kMaxClockNs = int64_t{1} << 61;
// What a record may hold as a reading of a clock.
inline bool IsClock(int64_t ns) { return ns >= 0 && ns < kMaxClockNs; }
// What may lie between two clocks: what is moved by so much is still far from wrapping.
inline bool IsOffset(int64_t ns) { return ns > -kMaxClockNs / 2 && ns < kMaxClockNs / 2; }
// The same of a wall clock, in seconds.
inline bool IsUnixSeconds(int64_t s) { return s >= 0 && s < kMaxClockNs / 1'000'000'000; }

// `reader` has Start(record), false if the file cannot begin with it; Add(record), false if it
// contradicts those before; and Damage(offset, bytes, what). Errors: DataLoss, if the bytes do not
// start with a whole record that `reader` takes.
template <typename Reader>
absl::Status ScanRecords(std::string_view bytes, const char* file, const char* first_record,
                         Reader& reader) {
  const std::optional<RecordView> first = ParseRecord(bytes);
  if (!first || !reader.Start(*first)) {
    return absl::DataLossError(absl::StrCat("not a ", file, ": wanted a whole ", first_record,
                                            " record in front of its ", bytes.size(), " bytes"));
  }
  size_t at = kRecordHeaderBytes + first->payload.size();
  size_t damaged_from = at;
  while (at < bytes.size()) {
    const std::optional<RecordView> record = ParseRecord(bytes.substr(at));
    if (!record) {
      ++at;
      continue;
    }
    if (at > damaged_from) reader.Damage(damaged_from, at - damaged_from, "damaged");
    const size_t size = kRecordHeaderBytes + record->payload.size();
    if (!reader.Add(*record)) reader.Damage(at, size, "a record that contradicts those before");
    at += size;
    damaged_from = at;
  }
  if (at > damaged_from) reader.Damage(damaged_from, at - damaged_from, "damaged tail");
  return absl::OkStatus();
}

}  // namespace muster::runtime
