#pragma once
// Makes the bytes of ledger files with clocks of a test's choice, and takes them apart again.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/goodput/failure.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/supervisor_ledger.h"
#include "runtime/goodput/supervisor_record.h"

namespace muster::runtime {

class LedgerBytes {
 public:
  // Realtime is monotonic + offset.
  LedgerBytes(const AttemptBegin& begin, int64_t at_ns, int64_t realtime_offset_ns = 0)
      : offset_ns_(realtime_offset_ns) {
    Append(Record(RecordType::kAttemptBegin, at_ns)
               .PutI32(begin.attempt)
               .PutI32(begin.rank)
               .PutI32(begin.world_size)
               .PutF64(begin.peak_flops)
               .PutU64(begin.config_hash)
               .PutI64(begin.process_start_monotonic_ns)
               .PutText(begin.peak_label, kMaxPeakLabelBytes)
               .PutText(begin.host, kMaxHostBytes)
               .PutU64(begin.boot)
               .PutI64(begin.clock.offset_ns)
               .PutI64(begin.clock.uncertainty_ns));
  }
  // Records end as those of the first writers did.
  void WriteAsOld() { old_ = true; }
  void JumpWallClock(int64_t by_ns) { offset_ns_ += by_ns; }
  void Enter(int64_t at_ns, State state) {
    Append(Record(RecordType::kEnter, at_ns).PutU8(static_cast<uint8_t>(state)));
  }
  void StepBegin(int64_t at_ns, int64_t step) {
    Append(Record(RecordType::kStepBegin, at_ns).PutI64(step));
  }
  void StepEnded(int64_t at_ns, const StepEnd& end) {
    RecordBuilder record = Record(RecordType::kStepEnd, at_ns);
    record.PutI64(end.step).PutU64(end.loss_bits).PutU64(end.grad_norm_bits);
    record.PutF64(end.model_flops).PutI64(end.tokens).PutU8(end.skipped ? 1 : 0);
    record.PutU8(parallel::kNumTimeCategories);
    for (const int64_t ns : end.time_ns) record.PutI64(ns);
    if (!old_) {
      record.PutF64(end.hardware_flops).PutI64(end.first_sequence).PutI64(end.num_sequences);
    }
    Append(record);
  }
  void Scheduler(int64_t at_ns, const SchedulerJob& job) {
    Append(Record(RecordType::kScheduler, at_ns)
               .PutText(job.id, kMaxPeakLabelBytes)
               .PutI32(job.restarts)
               .PutI64(job.submitted_s)
               .PutI64(job.started_s));
  }
  void Checkpoint(int64_t at_ns, const CheckpointEvent& event) {
    Append(Record(RecordType::kCheckpoint, at_ns)
               .PutU8(static_cast<uint8_t>(event.act))
               .PutI64(event.id.step)
               .PutI32(event.id.attempt)
               .PutI64(event.parent.step)
               .PutI32(event.parent.attempt)
               .PutI64(event.bytes));
  }
  void Heartbeat(int64_t at_ns) { Append(Record(RecordType::kHeartbeat, at_ns)); }
  void OfUnknownType(int64_t at_ns, uint8_t type) {
    Append(Record(static_cast<RecordType>(type), at_ns).PutU64(7));
  }
  void End(int64_t at_ns, int exit_code) {
    Append(Record(RecordType::kEnd, at_ns).PutI32(exit_code));
  }
  const std::string& bytes() const { return bytes_; }
  // Where each record begins; and, last, the size.
  std::vector<size_t> Boundaries() const {
    std::vector<size_t> at = {0};
    while (at.back() < bytes_.size()) {
      const auto record = ParseRecord(std::string_view(bytes_).substr(at.back()));
      at.push_back(at.back() + kRecordHeaderBytes + record.value().payload.size());
    }
    return at;
  }

 private:
  RecordBuilder Record(RecordType type, int64_t at_ns) const {
    return RecordBuilder(type, at_ns, at_ns + offset_ns_);
  }
  void Append(RecordBuilder record) { bytes_ += record.Finish(); }
  int64_t offset_ns_;
  bool old_ = false;
  std::string bytes_;
};

// The same for a supervisor's file.
class SupervisorBytes {
 public:
  SupervisorBytes(const std::string& host, int64_t at_ns, int64_t realtime_offset_ns,
                  uint64_t boot = 0, const SchedulerJob& scheduler = {}, int number = 0)
      : offset_ns_(realtime_offset_ns) {
    Append(Record(SupervisorRecord::kBegin, at_ns)
               .PutI32(number)
               .PutU64(0)
               .PutI32(scheduler.restarts)
               .PutText(scheduler.id, kMaxPeakLabelBytes)
               .PutText(host, kMaxHostBytes)
               .PutText("", kMaxPeakLabelBytes)
               .PutU64(boot)
               .PutI64(scheduler.submitted_s)
               .PutI64(scheduler.started_s));
  }
  void AttemptBegin(int64_t at_ns, int attempt, int world_size) {
    Append(Record(SupervisorRecord::kAttemptBegin, at_ns).PutI32(attempt).PutI32(world_size));
  }
  void Detect(int64_t at_ns, int attempt, FailureKind kind, int64_t happened_ns) {
    Append(Record(SupervisorRecord::kDetect, at_ns)
               .PutI32(attempt)
               .PutU8(static_cast<uint8_t>(kind))
               .PutI32(0)
               .PutI64(happened_ns)
               .PutI64(at_ns)
               .PutU8(0)
               .PutText("", kMaxEvidenceBytes));
  }
  void Host(int64_t at_ns, int attempt, const AttemptHost& host) {
    Append(Record(SupervisorRecord::kHost, at_ns)
               .PutI32(attempt)
               .PutI32(host.devices)
               .PutI32(host.ranks)
               .PutText(host.name, kMaxHostBytes));
  }
  void SpareIn(int64_t at_ns, int attempt, const std::string& host) {
    Append(Record(SupervisorRecord::kSpareIn, at_ns).PutI32(attempt).PutText(host, kMaxHostBytes));
  }
  void Exit(int64_t at_ns, int attempt, int rank, int status) {
    Append(Record(SupervisorRecord::kExit, at_ns).PutI32(attempt).PutI32(rank).PutI32(status));
  }
  void Teardown(int64_t at_ns, int attempt) {
    Append(Record(SupervisorRecord::kTeardown, at_ns).PutI32(attempt));
  }
  void AttemptEnd(int64_t at_ns, int attempt) {
    Append(Record(SupervisorRecord::kAttemptEnd, at_ns).PutI32(attempt).PutI32(0).PutU8(0));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  RecordBuilder Record(SupervisorRecord type, int64_t at_ns) const {
    return RecordBuilder(static_cast<RecordType>(type), at_ns, at_ns + offset_ns_);
  }
  void Append(RecordBuilder record) { bytes_ += record.Finish(); }
  int64_t offset_ns_;
  std::string bytes_;
};

}  // namespace muster::runtime
