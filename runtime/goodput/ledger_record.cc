#include "runtime/goodput/ledger_record.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/base/error.h"
#include "runtime/goodput/record_fields.h"
#include "runtime/goodput/record_scan.h"

namespace muster::runtime {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they lie");
static_assert(sizeof(double) == 8);

constexpr size_t kChecksumOffset = 4;
constexpr int64_t kMaxTokens = int64_t{1} << 36;  // of a batch: a sum over steps cannot wrap
constexpr int64_t kMaxStep = int64_t{1} << 62;    // so that the step after it is a number, too

// Of the whole record, with the checksum's own field as zero.
uint32_t Checksum(std::string_view record) {
  std::array<char, kMaxRecordBytes> copy;
  std::memcpy(copy.data(), record.data(), record.size());
  std::memset(copy.data() + kChecksumOffset, 0, sizeof(uint32_t));
  return XXH32(copy.data(), record.size(), 0);
}

// Of a step or a second, of all devices that there may ever be: sums and ratios of such stay
// finite.
bool IsFlops(double flops) { return flops == 0 || (flops >= 1e-3 && flops <= 1e30); }

}  // namespace

RecordBuilder::RecordBuilder(RecordType type, int64_t monotonic_ns, int64_t realtime_ns)
    : monotonic_ns_(monotonic_ns) {
  buffer_[2] = static_cast<char>(type);
  buffer_[3] = static_cast<char>(kRecordVersion);
  std::memcpy(buffer_.data() + 8, &monotonic_ns, sizeof(monotonic_ns));
  std::memcpy(buffer_.data() + 16, &realtime_ns, sizeof(realtime_ns));
}

RecordBuilder& RecordBuilder::PutBytes(const void* bytes, size_t size) {
  MUSTER_CHECK(used_ + size <= kMaxRecordBytes) << "a ledger record would pass its bound";
  std::memcpy(buffer_.data() + used_, bytes, size);
  used_ += size;
  return *this;
}

RecordBuilder& RecordBuilder::PutText(std::string_view text, size_t max_bytes) {
  text = text.substr(0, std::min<size_t>(max_bytes, 255));
  PutU8(static_cast<uint8_t>(text.size()));
  return PutBytes(text.data(), text.size());
}

std::string_view RecordBuilder::Finish() {
  const uint16_t payload = static_cast<uint16_t>(used_ - kRecordHeaderBytes);
  std::memcpy(buffer_.data(), &payload, sizeof(payload));
  const uint32_t checksum = Checksum({buffer_.data(), used_});
  std::memcpy(buffer_.data() + kChecksumOffset, &checksum, sizeof(checksum));
  return {buffer_.data(), used_};
}

std::optional<RecordView> ParseRecord(std::string_view bytes) {
  if (bytes.size() < kRecordHeaderBytes) return std::nullopt;
  uint16_t payload = 0;
  uint32_t checksum = 0;
  std::memcpy(&payload, bytes.data(), sizeof(payload));
  std::memcpy(&checksum, bytes.data() + kChecksumOffset, sizeof(checksum));
  const size_t size = kRecordHeaderBytes + payload;
  if (size > kMaxRecordBytes || size > bytes.size()) return std::nullopt;
  if (Checksum(bytes.substr(0, size)) != checksum) return std::nullopt;
  RecordView record;
  record.type = static_cast<uint8_t>(bytes[2]);
  record.version = static_cast<uint8_t>(bytes[3]);
  std::memcpy(&record.monotonic_ns, bytes.data() + 8, sizeof(int64_t));
  std::memcpy(&record.realtime_ns, bytes.data() + 16, sizeof(int64_t));
  record.payload = bytes.substr(kRecordHeaderBytes, payload);
  return record;
}

std::optional<AttemptBegin> ParseAttemptBegin(std::string_view payload) {
  RecordFields fields(payload);
  AttemptBegin begin;
  begin.attempt = fields.Take<int32_t>();
  begin.rank = fields.Take<int32_t>();
  begin.world_size = fields.Take<int32_t>();
  begin.peak_flops = fields.Take<double>();
  begin.config_hash = fields.Take<uint64_t>();
  begin.process_start_monotonic_ns = fields.Take<int64_t>();
  begin.peak_label = fields.TakeText();
  begin.host = fields.TakeText();
  if (!fields.empty()) {
    begin.boot = fields.Take<uint64_t>();
    begin.clock.offset_ns = fields.Take<int64_t>();
    begin.clock.uncertainty_ns = fields.Take<int64_t>();
  }
  const bool sane_clock = IsOffset(begin.clock.offset_ns) && begin.clock.uncertainty_ns >= -1 &&
                          IsOffset(begin.clock.uncertainty_ns);
  const bool sane = begin.attempt >= 0 && begin.rank >= 0 && begin.rank < begin.world_size &&
                    IsFlops(begin.peak_flops) && sane_clock;
  if (!fields.ok() || !sane) return std::nullopt;
  return begin;
}

std::optional<State> ParseEnter(std::string_view payload) {
  RecordFields fields(payload);
  const uint8_t state = fields.Take<uint8_t>();
  // kStep is entered by kStepBegin only, which says which step.
  if (!fields.ok() || state >= kNumStates || state == static_cast<uint8_t>(State::kStep)) {
    return std::nullopt;
  }
  return static_cast<State>(state);
}

std::optional<int64_t> ParseStepBegin(std::string_view payload) {
  RecordFields fields(payload);
  const int64_t step = fields.Take<int64_t>();
  if (!fields.ok() || step < 0) return std::nullopt;
  return step;
}

std::optional<StepEnd> ParseStepEnd(std::string_view payload) {
  RecordFields fields(payload);
  StepEnd end;
  end.step = fields.Take<int64_t>();
  end.loss_bits = fields.Take<uint64_t>();
  end.grad_norm_bits = fields.Take<uint64_t>();
  end.model_flops = fields.Take<double>();
  end.tokens = fields.Take<int64_t>();
  end.skipped = fields.Take<uint8_t>() != 0;
  const int count = fields.Take<uint8_t>();
  bool sane = end.step >= 0 && end.tokens >= 0 && end.tokens <= kMaxTokens &&
              IsFlops(end.model_flops) && count <= parallel::kNumTimeCategories;
  for (int c = 0; sane && c < count; ++c) {
    end.time_ns[c] = fields.Take<int64_t>();
    sane = end.time_ns[c] >= 0;
  }
  if (!fields.empty()) end.hardware_flops = fields.Take<double>();
  if (!fields.empty()) {
    end.first_sequence = fields.Take<int64_t>();
    end.num_sequences = fields.Take<int64_t>();
  }
  sane = sane && IsFlops(end.hardware_flops) && end.first_sequence >= 0 && end.num_sequences >= 0;
  if (!fields.ok() || !sane) return std::nullopt;
  return end;
}

std::optional<CheckpointEvent> ParseCheckpoint(std::string_view payload) {
  RecordFields fields(payload);
  CheckpointEvent event;
  const uint8_t act = fields.Take<uint8_t>();
  event.id.step = fields.Take<int64_t>();
  event.id.attempt = fields.Take<int32_t>();
  event.parent.step = fields.Take<int64_t>();
  event.parent.attempt = fields.Take<int32_t>();
  event.bytes = fields.Take<int64_t>();
  const auto sane_id = [](const CheckpointId& id) {
    return id.step >= 0 && id.step < kMaxStep && id.attempt >= -1;
  };
  const bool sane = act <= static_cast<uint8_t>(CheckpointAct::kPutOff) && sane_id(event.id) &&
                    sane_id(event.parent) && event.bytes >= 0;
  if (!fields.ok() || !sane) return std::nullopt;
  event.act = static_cast<CheckpointAct>(act);
  return event;
}

std::optional<SkipRecord> ParseSkip(std::string_view payload) {
  RecordFields fields(payload);
  SkipRecord skip;
  skip.step = fields.Take<int64_t>();
  skip.reason = fields.TakeText();
  if (!fields.ok() || skip.step < 0) return std::nullopt;
  return skip;
}

std::optional<int32_t> ParseEnd(std::string_view payload) {
  RecordFields fields(payload);
  const int32_t exit_code = fields.Take<int32_t>();
  if (!fields.ok()) return std::nullopt;
  return exit_code;
}

std::optional<SchedulerJob> ParseScheduler(std::string_view payload) {
  RecordFields fields(payload);
  SchedulerJob job;
  job.id = fields.TakeText();
  job.restarts = fields.Take<int32_t>();
  job.submitted_s = fields.Take<int64_t>();
  job.started_s = fields.Take<int64_t>();
  const bool sane = IsUnixSeconds(job.submitted_s) && IsUnixSeconds(job.started_s);
  if (!fields.ok() || !sane) return std::nullopt;
  return job;
}

std::optional<int64_t> ParseLost(std::string_view payload) {
  RecordFields fields(payload);
  const int64_t records = fields.Take<int64_t>();
  if (!fields.ok() || records < 0) return std::nullopt;
  return records;
}

std::string AttemptDirectory(const std::string& run_directory, int attempt) {
  return run_directory + "/ledger/attempt-" + std::to_string(attempt);
}

std::string LedgerFileName(int rank) { return "rank-" + std::to_string(rank) + ".ledger"; }

}  // namespace muster::runtime
