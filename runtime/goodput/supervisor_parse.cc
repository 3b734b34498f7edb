// ParseSupervisorLedger: from the bytes of a supervisor's file to its attempts.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/record_fields.h"
#include "runtime/goodput/record_scan.h"
#include "runtime/goodput/supervisor_ledger.h"
#include "runtime/goodput/supervisor_record.h"

namespace muster::runtime {
namespace {

constexpr int kMaxWorld = 1 << 24;
constexpr size_t kMaxDamage = 20, kMaxListed = 1000;  // of one attempt
constexpr size_t kMaxHosts = 1 << 16;

class SupervisorParser {
 public:
  bool Start(const RecordView& record) {
    RecordFields fields(record.payload);
    SupervisorBegin& begin = log_.begin;
    begin.supervisor = fields.Take<int32_t>();
    begin.config_hash = fields.Take<uint64_t>();
    begin.scheduler.restarts = fields.Take<int32_t>();
    begin.scheduler.id = fields.TakeText();
    begin.host = fields.TakeText();
    begin.build = fields.TakeText();
    if (!fields.empty()) begin.boot = fields.Take<uint64_t>();
    if (!fields.empty()) {
      begin.scheduler.submitted_s = fields.Take<int64_t>();
      begin.scheduler.started_s = fields.Take<int64_t>();
    }
    log_.begin_monotonic_ns = last_ns_ = record.monotonic_ns;
    log_.begin_realtime_ns = record.realtime_ns;
    return static_cast<SupervisorRecord>(record.type) == SupervisorRecord::kBegin && fields.ok() &&
           IsClock(record.monotonic_ns) && IsClock(record.realtime_ns) && begin.supervisor >= 0 &&
           IsUnixSeconds(begin.scheduler.submitted_s) && IsUnixSeconds(begin.scheduler.started_s);
  }

  // False: the record's checksum holds, but it cannot be what a writer wrote here.
  bool Add(const RecordView& record) {
    if (record.version != kRecordVersion || !IsClock(record.monotonic_ns) ||
        record.monotonic_ns < last_ns_) {
      return false;
    }
    if (record.type > static_cast<uint8_t>(SupervisorRecord::kHost))
      return true;  // a newer writer's
    RecordFields fields(record.payload);
    const int attempt = fields.Take<int32_t>();
    if (!fields.ok() || attempt < 0) return false;
    const auto type = static_cast<SupervisorRecord>(record.type);
    if (type == SupervisorRecord::kAttemptBegin) {
      const int world_size = fields.Take<int32_t>();
      if (!fields.ok() || world_size < 1 || world_size > kMaxWorld) return false;
      if (!log_.attempts.empty() && attempt <= log_.attempts.back().attempt) return false;
      SupervisedAttempt& added = log_.attempts.emplace_back();
      added.attempt = attempt;
      added.world_size = world_size;
      added.begin_ns = record.monotonic_ns;
    } else if (!AddTo(attempt, type, record, &fields)) {
      return false;
    }
    last_ns_ = record.monotonic_ns;
    return true;
  }

  void Damage(size_t offset, size_t bytes, const char* what) {
    if (log_.damage.size() < kMaxDamage) {
      log_.damage.push_back(absl::StrCat(what, ": ", bytes, " bytes at offset ", offset));
    }
  }
  SupervisorLog Finish() { return std::move(log_); }

 private:
  bool AddTo(int number, SupervisorRecord type, const RecordView& record, RecordFields* fields) {
    const int64_t now = record.monotonic_ns;
    if (log_.attempts.empty() || log_.attempts.back().attempt != number) return false;
    SupervisedAttempt& attempt = log_.attempts.back();
    if (attempt.end_ns) return false;
    switch (type) {
      case SupervisorRecord::kBegin:
      case SupervisorRecord::kAttemptBegin:
        return false;
      case SupervisorRecord::kSpawn:
        attempt.spawn_ns = now;
        return true;
      case SupervisorRecord::kDetect:
        return AddDetect(fields, now, &attempt);
      case SupervisorRecord::kTeardown:
        if (!attempt.kill_ns) attempt.kill_ns = now;
        return true;
      case SupervisorRecord::kSpareIn:
        attempt.spares.push_back(fields->TakeText());
        return fields->ok() && attempt.spares.size() <= kMaxListed;
      case SupervisorRecord::kAttemptEnd: {
        attempt.exit_code = fields->Take<int32_t>();
        const uint8_t action = fields->Take<uint8_t>();
        if (!fields->ok() || action > static_cast<uint8_t>(Action::kStop)) return false;
        attempt.action = static_cast<Action>(action);
        attempt.end_ns = now;
        attempt.end_realtime_ns = IsClock(record.realtime_ns) ? record.realtime_ns : 0;
        return true;
      }
      case SupervisorRecord::kHost: {
        AttemptHost host;
        host.devices = fields->Take<int32_t>();
        host.ranks = fields->Take<int32_t>();
        host.name = fields->TakeText();
        if (!fields->ok() || host.devices < 1 || host.devices > kMaxWorld || host.ranks < 0 ||
            host.ranks > kMaxWorld) {
          return false;
        }
        if (attempt.hosts.size() < kMaxHosts) attempt.hosts.push_back(std::move(host));
        return true;
      }
      case SupervisorRecord::kExit: {  // for people: attribution goes by detect and teardown
        const int rank = fields->Take<int32_t>(), status = fields->Take<int32_t>();
        if (!fields->ok() || rank < kStarterRank || rank >= attempt.world_size) return false;
        if (attempt.exits.size() < kMaxListed) attempt.exits.push_back({rank, status, now});
        return true;
      }
    }
    return true;  // of a newer writer
  }

  static bool AddDetect(RecordFields* fields, int64_t now, SupervisedAttempt* attempt) {
    Failure failure;
    const uint8_t kind = fields->Take<uint8_t>();
    failure.exit_code = fields->Take<int32_t>();
    failure.happened_ns = fields->Take<int64_t>();
    failure.detected_ns = fields->Take<int64_t>();
    const int count = fields->Take<uint8_t>();
    for (int i = 0; i < count && fields->ok(); ++i) {
      failure.ranks.push_back(fields->Take<int32_t>());
    }
    failure.evidence = fields->TakeText();
    if (!fields->ok() || kind >= kNumFailureKinds) return false;
    failure.kind = static_cast<FailureKind>(kind);
    // What happened, happened within the attempt, and was noticed after that.
    failure.detected_ns = std::clamp(failure.detected_ns, attempt->begin_ns, now);
    failure.happened_ns = std::clamp(failure.happened_ns, attempt->begin_ns, failure.detected_ns);
    if (failure.kind == FailureKind::kStraggler) {
      if (attempt->stragglers.size() < kMaxListed) attempt->stragglers.push_back(failure);
    } else {
      attempt->failure = std::move(failure);
    }
    return true;
  }

  SupervisorLog log_;
  int64_t last_ns_ = 0;
};

}  // namespace

absl::StatusOr<SupervisorLog> ParseSupervisorLedger(std::string_view bytes) {
  SupervisorParser parser;
  RETURN_IF_ERROR(ScanRecords(bytes, "supervisor's ledger", "begin", parser));
  return parser.Finish();
}

}  // namespace muster::runtime
