// ParseRankLedger: from the bytes of one rank's file to its phases.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/record_scan.h"

namespace muster::runtime {
namespace {

constexpr size_t kMaxDamage = 20;  // sentences of one file

class RankLedgerBuilder {
 public:
  bool Start(const RecordView& record) {
    const std::optional<AttemptBegin> begin = ParseAttemptBegin(record.payload);
    if (static_cast<RecordType>(record.type) != RecordType::kAttemptBegin || !begin) return false;
    if (!IsClock(record.monotonic_ns) || !IsClock(record.realtime_ns)) return false;
    if (begin->process_start_monotonic_ns < 0 ||
        begin->process_start_monotonic_ns > record.monotonic_ns) {
      return false;
    }
    ledger_.begin = *begin;
    ledger_.begin_monotonic_ns = record.monotonic_ns;
    ledger_.begin_realtime_ns = ledger_.end_realtime_ns = record.realtime_ns;
    log().rank = begin->rank;
    log().host = begin->host;
    log().peak_label = begin->peak_label;
    log().peak_flops = begin->peak_flops;
    log().process_start_ns = begin->process_start_monotonic_ns;
    log().end_ns = record.monotonic_ns;
    ledger_.records = 1;
    return true;
  }

  // False: the record's checksum holds, but it cannot be what a writer wrote here.
  bool Add(const RecordView& record) {
    if (!IsClock(record.monotonic_ns) || record.monotonic_ns < log().end_ns) return false;
    if (log().exit_code) return false;  // nothing follows the end
    if (record.version != kRecordVersion || !Apply(record)) return false;
    log().end_ns = record.monotonic_ns;
    if (IsClock(record.realtime_ns)) ledger_.end_realtime_ns = record.realtime_ns;
    ++ledger_.records;
    return true;
  }

  void Damage(size_t offset, size_t bytes, const char* what) {
    Note(absl::StrCat(what, ": ", bytes, " bytes at offset ", offset));
  }

  RankLedger Finish() {
    if (damaged_since_ && *damaged_since_ < log().end_ns) BookDamage();
    return std::move(ledger_);
  }

 private:
  RankLog& log() { return ledger_.log; }

  // Something is missing since the last record.
  void Note(std::string what) {
    if (ledger_.damage.size() < kMaxDamage) ledger_.damage.push_back(std::move(what));
    if (!damaged_since_) damaged_since_ = log().end_ns;
  }

  bool Apply(const RecordView& record) {
    const int64_t now = record.monotonic_ns;
    switch (static_cast<RecordType>(record.type)) {
      case RecordType::kAttemptBegin:
        return false;
      case RecordType::kEnter: {
        const std::optional<State> state = ParseEnter(record.payload);
        if (!state) return false;
        BookDamage();
        log().phases.push_back({now, *state, -1});
        return true;
      }
      case RecordType::kStepBegin: {
        const std::optional<int64_t> step = ParseStepBegin(record.payload);
        if (!step) return false;
        BookDamage();
        BeginStep(now, *step);
        return true;
      }
      case RecordType::kStepEnd:
        return EndStep(record);
      case RecordType::kHeartbeat:
        return true;
      case RecordType::kCheckpoint: {
        const std::optional<CheckpointEvent> event = ParseCheckpoint(record.payload);
        if (!event) return false;
        log().checkpoints.push_back({now, *event});
        return true;
      }
      case RecordType::kSkip: {
        std::optional<SkipRecord> skip = ParseSkip(record.payload);
        if (!skip) return false;
        log().skips.push_back({now, skip->step, std::move(skip->reason)});
        return true;
      }
      case RecordType::kScheduler: {
        const std::optional<SchedulerJob> job = ParseScheduler(record.payload);
        if (!job) return false;
        ledger_.begin.scheduler = *job;
        return true;
      }
      case RecordType::kEnd: {
        const std::optional<int32_t> exit_code = ParseEnd(record.payload);
        if (!exit_code) return false;
        BookDamage();
        log().exit_code = exit_code;
        return true;
      }
      case RecordType::kLost: {
        const std::optional<int64_t> records = ParseLost(record.payload);
        if (!records) return false;
        Note(absl::StrCat("the disk did not take ", *records, " records"));
        return true;
      }
    }
    ++ledger_.unknown_records;
    return true;
  }

  bool EndStep(const RecordView& record) {
    const std::optional<StepEnd> end = ParseStepEnd(record.payload);
    if (!end) return false;
    const int64_t now = record.monotonic_ns;
    const bool open = !log().phases.empty() && log().phases.back().state == State::kStep &&
                      log().steps.back().step == end->step;
    if (!open) {  // right only if its begin was lost; its parts tell when that was
      if (!damaged_since_ || PartsOf(*end) > now - *damaged_since_) return false;
      BookDamage();
      BeginStep(now - PartsOf(*end), end->step);
    }
    if (PartsOf(*end) != now - log().phases.back().begin_ns) return false;
    damaged_since_.reset();  // the record covers the whole step, whatever was lost within
    StepExecution& step = log().steps.back();
    step.finished = true;
    step.skipped = end->skipped;
    step.time_ns = end->time_ns;
    step.model_flops = end->model_flops;
    step.hardware_flops = end->hardware_flops;
    step.tokens = end->tokens;
    step.first_sequence = end->first_sequence;
    step.num_sequences = end->num_sequences;
    step.loss_bits = end->loss_bits;
    step.grad_norm_bits = end->grad_norm_bits;
    log().phases.push_back({now, State::kUnknown, -1});
    return true;
  }

  void BeginStep(int64_t at_ns, int64_t step) {
    log().phases.push_back({at_ns, State::kStep, static_cast<int>(log().steps.size())});
    log().steps.emplace_back().step = step;
  }

  // The sum of a step's parts, or more than any clock if it is that large.
  static int64_t PartsOf(const StepEnd& end) {
    int64_t sum = 0;
    for (const int64_t ns : end.time_ns)
      sum = std::min(sum + std::min(ns, kMaxClockNs), kMaxClockNs);
    return sum;
  }

  // What happened across a damaged stretch is not known.
  void BookDamage() {
    if (!damaged_since_) return;
    log().phases.push_back({*damaged_since_, State::kUnknown, -1});
    damaged_since_.reset();
  }

  RankLedger ledger_;
  std::optional<int64_t> damaged_since_;
};

}  // namespace

absl::StatusOr<RankLedger> ParseRankLedger(std::string_view bytes) {
  RankLedgerBuilder builder;
  RETURN_IF_ERROR(ScanRecords(bytes, "goodput ledger", "attempt-begin", builder));
  return builder.Finish();
}

}  // namespace muster::runtime
