#pragma once
// The goodput ledger: one append-only binary file per rank and attempt, written with one write(2)
// per record and no fsync, so that it survives the death of its process; that of its host up to the
// last 5 s, after which a thread of its own brings it to the disk. A rank is always in exactly one
// state; entering one closes the one before, so the intervals tile. The report
// (runtime/goodput/attribution) is a pure function of these files. From StepEnded to the next state
// a rank is in kUnknown, so begin the next step at once and book the rest under it.
//
// File: ledger/attempt-<a>/rank-<r>.ledger in the run directory, created exclusively, mode 0600.
// Record, little-endian: u16 payload bytes, u8 type, u8 version, u32 checksum (XXH32 of the
// record with this field zero), i64 monotonic ns, i64 realtime ns, payload; at most 256 bytes.
// Readers skip unknown types by length; a damaged tail costs the last record, and is reported. What
// a full disk does not take is written late (runtime/job/append_file.h); what had to be given up is
// counted by a record in its place.
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/time_category.h"
#include "runtime/goodput/clock.h"
#include "runtime/goodput/scheduler_job.h"

namespace muster::runtime {

enum class State : uint8_t {
  kAllocWait,
  kLaunch,
  kInitRuntime,
  kInitModel,
  kCheckpointLoad,
  kDataSeek,
  kWarmup,
  kStep,
  kCheckpointStall,
  kEval,
  kDetect,
  kTeardown,
  kSpareIdle,
  kDrain,
  kUnknown,
};
constexpr int kNumStates = static_cast<int>(State::kUnknown) + 1;
const char* Name(State state);

struct AttemptBegin {
  int attempt = 0, rank = 0, world_size = 1;
  double peak_flops = 0;   // of this device
  std::string peak_label;  // "H200 SXM bf16 dense", "peak=measured"; cut to 48 bytes
  std::string host;        // cut to 64 bytes
  uint64_t config_hash = 0;
  int64_t process_start_monotonic_ns = 0;
  uint64_t boot = 0;         // see ClockId; 0: Create fills in this kernel's
  ClockOffset clock{0, -1};  // to rank 0's; -1: not known
  SchedulerJob scheduler;
};

struct StepEnd {
  int64_t step = 0;
  uint64_t loss_bits = 0, grad_norm_bits = 0;     // of fp64
  double model_flops = 0;                         // of this rank's share of the step
  double hardware_flops = 0;                      // with what is recomputed; 0: not known
  int64_t tokens = 0;                             // of the global batch
  int64_t first_sequence = 0, num_sequences = 0;  // of it, in the order of the data
  bool skipped = false;                           // executed without an update
  std::array<int64_t, parallel::kNumTimeCategories> time_ns{};  // sums to the step's wall time
};

// What names a checkpoint for ever: the step in it and the attempt that saved it. The state that a
// run starts from is no checkpoint, and has step 0.
struct CheckpointId {
  int64_t step = 0;
  int attempt = -1;
  friend bool operator==(const CheckpointId&, const CheckpointId&) = default;
};

enum class CheckpointAct : uint8_t {
  kSnapshot,  // this rank has copied its share; the save is in flight
  kCommit,    // rank 0: it is durable and can be restored
  kFail,      // rank 0: it was not committed
  kRestore,   // the attempt goes on from it, at the step after
  kPutOff,    // rank 0: it was due, but the one before was still in flight
};

struct CheckpointEvent {
  CheckpointAct act = CheckpointAct::kSnapshot;
  CheckpointId id, parent;  // parent: what the attempt that saved it was restored from
  int64_t bytes = 0;        // kSnapshot, kRestore: of this rank; kCommit: of all
};

// The parts of a step of `interval_ns`, made to sum to it exactly: what they lack goes to kOther;
// if they pass it (they are from the device's clock), all shrink alike.
std::array<int64_t, parallel::kNumTimeCategories> TileStep(
    std::array<int64_t, parallel::kNumTimeCategories> time_ns, int64_t interval_ns);

class RankProgress;  // runtime/goodput/rank_progress.h

// Thread-safe. A write error never stops a training run, nor fails its end: it is logged, and kept
// in status(); the end of a run says how many records are lost.
class LedgerWriter {
 public:
  // `progress`, if given, hears of every state and step, keeps the ledger alive by its Beat, and
  // outlives it. Errors: the directory cannot be written; the file exists (another process has this
  // attempt).
  static absl::StatusOr<std::unique_ptr<LedgerWriter>> Create(
      const std::string& run_directory, const AttemptBegin& begin, RankProgress* progress = nullptr,
      std::chrono::milliseconds sync_every = std::chrono::seconds(5));
  virtual ~LedgerWriter() = default;  // closes the attempt's last state, if End was not called
  // From now on this rank is in `state` (not kStep: see StepBegin). Returns the instant
  // (CLOCK_MONOTONIC ns).
  virtual int64_t Enter(State state) = 0;
  virtual void StepBegin(int64_t step) = 0;  // enters kStep
  // The open step's interval ends now; time_ns is made to tile it by TileStep.
  virtual void StepEnded(const StepEnd& end) = 0;
  // An instant within a state, which it does not change. A commit is synced to the disk, so call
  // that one off the training thread.
  virtual void Checkpoint(const CheckpointEvent& event) = 0;
  // Why a step made no update; cut to 64 bytes. StepEnd's `skipped` says that it made none.
  virtual void Skip(int64_t step, std::string_view reason) = 0;
  virtual void Heartbeat() = 0;             // call at most 0.5 s apart; writes if 0.25 s are silent
  virtual void End(int exit_code) = 0;      // a checkpoint's event that comes later is left out
  virtual absl::Status status() const = 0;  // the first write error, if any
  // The records that are older (CLOCK_MONOTONIC ns) are on the disk; 0: not known of any.
  virtual int64_t synced_ns() const = 0;
  virtual int64_t num_lost() const = 0;  // records that will never be written
};

}  // namespace muster::runtime
