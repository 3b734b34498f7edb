#pragma once
// The bytes of a ledger record (layout: runtime/goodput/ledger.h), shared by writer and reader.
// Integers are little-endian; a double travels as the bits of an IEEE binary64.
//
// Payloads, version 1:
//   kAttemptBegin  i32 attempt, i32 rank, i32 world size, f64 peak FLOP/s, u64 config hash,
//                  i64 process start (monotonic ns), text peak label, text host, u64 boot id's hash
//                  (0: not known), i64 ns from this clock to rank 0's, i64 how wrong that may be
//                  (-1: not known)
//   kEnter         u8 state
//   kStepBegin     i64 step
//   kStepEnd       i64 step, u64 loss bits, u64 gradient norm bits, f64 model FLOPs, i64 tokens,
//                  u8 skipped, u8 count, count x i64 ns of a time category, f64 hardware FLOPs,
//                  i64 first sequence, i64 sequences (0: not known)
//   kHeartbeat     nothing
//   kCheckpoint    u8 act, i64 step, i32 attempt, i64 parent's step, i32 parent's attempt, i64
//                  bytes
//   kSkip          i64 step, text reason
//   kEnd           i32 exit code (kNoExitCode: the writer was closed without one)
//   kLost          i64 records that the disk did not take, up to this one
//   kScheduler     text job, i32 restarts, i64 submitted, i64 started (Unix seconds; 0: not told)
// where text is u8 length, then as many bytes. The last fields of a record may be missing: those of
// an older writer.
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/goodput/ledger.h"

namespace muster::runtime {

enum class RecordType : uint8_t {
  kAttemptBegin = 1,
  kEnter = 2,
  kStepBegin = 3,
  kStepEnd = 4,
  kHeartbeat = 5,
  kEnd = 6,
  kCheckpoint = 7,
  kSkip = 8,
  kLost = 9,
  kScheduler = 10,
};

constexpr size_t kRecordHeaderBytes = 24;
constexpr size_t kMaxRecordBytes = 256;
constexpr uint8_t kRecordVersion = 1;
constexpr size_t kMaxPeakLabelBytes = 48;
constexpr size_t kMaxHostBytes = 64;
constexpr size_t kMaxReasonBytes = 64;
constexpr int kNoExitCode = std::numeric_limits<int32_t>::min();

// A record under construction. Put past kMaxRecordBytes is our bug and CHECK-fails.
class RecordBuilder {
 public:
  RecordBuilder(RecordType type, int64_t monotonic_ns, int64_t realtime_ns);
  RecordBuilder& PutU8(uint8_t value) { return PutBytes(&value, sizeof(value)); }
  RecordBuilder& PutI32(int32_t value) { return PutBytes(&value, sizeof(value)); }
  RecordBuilder& PutI64(int64_t value) { return PutBytes(&value, sizeof(value)); }
  RecordBuilder& PutU64(uint64_t value) { return PutBytes(&value, sizeof(value)); }
  RecordBuilder& PutF64(double value) { return PutBytes(&value, sizeof(value)); }
  RecordBuilder& PutText(std::string_view text, size_t max_bytes);  // longer text is cut
  int64_t monotonic_ns() const { return monotonic_ns_; }
  // Fills in length and checksum; the view lives as long as the builder.
  std::string_view Finish();

 private:
  RecordBuilder& PutBytes(const void* bytes, size_t size);
  std::array<char, kMaxRecordBytes> buffer_{};
  size_t used_ = kRecordHeaderBytes;
  int64_t monotonic_ns_;
};

struct RecordView {
  uint8_t type = 0, version = 0;
  int64_t monotonic_ns = 0, realtime_ns = 0;
  std::string_view payload;
};

// The record at the front of `bytes`, which may come from anywhere: nullopt if it is cut short, too
// long, or its checksum does not hold.
std::optional<RecordView> ParseRecord(std::string_view bytes);

// Each decodes a payload; nullopt if it is shorter than its fields or a value is out of range.
// Longer payloads are legal: a later writer may append fields.
std::optional<AttemptBegin> ParseAttemptBegin(std::string_view payload);
std::optional<State> ParseEnter(std::string_view payload);
std::optional<int64_t> ParseStepBegin(std::string_view payload);
std::optional<StepEnd> ParseStepEnd(std::string_view payload);
std::optional<CheckpointEvent> ParseCheckpoint(std::string_view payload);
struct SkipRecord {
  int64_t step = 0;
  std::string reason;
};
std::optional<SkipRecord> ParseSkip(std::string_view payload);
std::optional<int32_t> ParseEnd(std::string_view payload);
std::optional<SchedulerJob> ParseScheduler(std::string_view payload);
std::optional<int64_t> ParseLost(std::string_view payload);

// "<run>/ledger/attempt-<a>" and "rank-<r>.ledger" in it.
std::string AttemptDirectory(const std::string& run_directory, int attempt);
std::string LedgerFileName(int rank);

}  // namespace muster::runtime
