#include "runtime/goodput/supervisor_ledger.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/goodput/clock.h"
#include "runtime/goodput/ledger_files.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/supervisor_record.h"
#include "runtime/job/append_file.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

int64_t RealtimeNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class FileSupervisorLedger final : public SupervisorLedger {
 public:
  FileSupervisorLedger(std::unique_ptr<AppendFile> file, const SupervisorBegin& begin)
      : file_(std::move(file)), number_(begin.supervisor) {
    Append(New(SupervisorRecord::kBegin)
               .PutI32(begin.supervisor)
               .PutU64(begin.config_hash)
               .PutI32(begin.scheduler.restarts)
               .PutText(begin.scheduler.id, kMaxPeakLabelBytes)
               .PutText(begin.host, kMaxHostBytes)
               .PutText(begin.build, kMaxPeakLabelBytes)
               .PutU64(begin.boot != 0 ? begin.boot : BootId())
               .PutI64(begin.scheduler.submitted_s)
               .PutI64(begin.scheduler.started_s));
  }
  ~FileSupervisorLedger() override { Sync(); }

  void AttemptBegin(int attempt, int world_size) override {
    Append(New(SupervisorRecord::kAttemptBegin).PutI32(attempt).PutI32(world_size));
  }
  void Host(int attempt, const AttemptHost& host) override {
    Append(New(SupervisorRecord::kHost)
               .PutI32(attempt)
               .PutI32(host.devices)
               .PutI32(host.ranks)
               .PutText(host.name, kMaxHostBytes));
  }
  void Spawn(int attempt, int64_t pid) override {
    Append(New(SupervisorRecord::kSpawn).PutI32(attempt).PutI64(pid));
    Sync();
  }
  void Exit(int attempt, int rank, int status) override {
    Append(New(SupervisorRecord::kExit).PutI32(attempt).PutI32(rank).PutI32(status));
  }
  void Detect(int attempt, const Failure& failure) override {
    const size_t ranks = std::min(failure.ranks.size(), kMaxDetectRanks);
    RecordBuilder record = New(SupervisorRecord::kDetect);
    record.PutI32(attempt)
        .PutU8(static_cast<uint8_t>(failure.kind))
        .PutI32(failure.exit_code)
        .PutI64(failure.happened_ns)
        .PutI64(failure.detected_ns)
        .PutU8(static_cast<uint8_t>(ranks));
    for (size_t i = 0; i < ranks; ++i) record.PutI32(failure.ranks[i]);
    record.PutText(failure.evidence, kMaxEvidenceBytes);
    Append(record);
  }
  void Teardown(int attempt) override { Append(New(SupervisorRecord::kTeardown).PutI32(attempt)); }
  void SpareIn(int attempt, const std::string& host) override {
    Append(New(SupervisorRecord::kSpareIn).PutI32(attempt).PutText(host, kMaxHostBytes));
  }
  void AttemptEnd(int attempt, int exit_code, Action action) override {
    Append(New(SupervisorRecord::kAttemptEnd)
               .PutI32(attempt)
               .PutI32(exit_code)
               .PutU8(static_cast<uint8_t>(action)));
  }
  void Flush() override { (void)file_->Flush(); }
  absl::Status status() const override { return file_->first_error(); }
  int number() const override { return number_; }

 private:
  static RecordBuilder New(SupervisorRecord type) {
    return RecordBuilder(static_cast<RecordType>(type), kernels::MonotonicNs(), RealtimeNs());
  }
  void Sync() {
    const absl::Status synced = file_->Sync();
    if (!synced.ok()) kernels::Log(kernels::Severity::kWarning, std::string(synced.message()));
  }
  void Append(RecordBuilder& record) { file_->Append(record.Finish()); }
  void Append(RecordBuilder&& record) { Append(record); }

  const std::unique_ptr<AppendFile> file_;
  const int number_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SupervisorLedger>> SupervisorLedger::Create(
    const std::string& run_directory, SupervisorBegin begin) {
  const std::string directory = run_directory + "/ledger";
  const std::map<int, std::string> taken = Numbered(directory, "supervisor-", ".ledger");
  begin.supervisor = taken.empty() ? 0 : taken.rbegin()->first + 1;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return FileError("make the ledger's directory " + directory, error.value());
  ASSIGN_OR_RETURN(std::unique_ptr<AppendFile> file,
                   AppendFile::Open(directory + "/" + SupervisorFileName(begin.supervisor),
                                    AppendFile::Start::kNew));
  return std::make_unique<FileSupervisorLedger>(std::move(file), begin);
}

std::string SupervisorFileName(int supervisor) {
  return absl::StrCat("supervisor-", supervisor, ".ledger");
}

int NextAttempt(const std::string& run_directory) {
  const std::string directory = run_directory + "/ledger";
  const std::map<int, std::string> attempts = Numbered(directory, "attempt-", "");
  int next = attempts.empty() ? 0 : attempts.rbegin()->first + 1;
  for (const auto& [number, path] : Numbered(directory, "supervisor-", ".ledger")) {
    const absl::StatusOr<std::string> bytes = ReadRegularFile(path);
    if (!bytes.ok()) continue;
    const absl::StatusOr<SupervisorLog> log = ParseSupervisorLedger(*bytes);
    if (!log.ok()) continue;
    for (const SupervisedAttempt& attempt : log->attempts) {
      next = std::max(next, attempt.attempt + 1);
    }
  }
  return next;
}

}  // namespace muster::runtime
