#include "runtime/checkpoint/disk_store.h"

#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/seconds_since.h"

namespace muster::runtime {
namespace {

void WarnOf(const absl::Status& status) {
  if (!status.ok()) kernels::Log(kernels::Severity::kWarning, std::string(status.message()));
}

class DiskStore final : public CheckpointStore {
 public:
  DiskStore(const std::string& run_directory, int rank, int num_ranks, DiskStoreOptions options)
      : run_directory_(run_directory),
        directory_(run_directory + "/checkpoints"),
        rank_(rank),
        num_ranks_(num_ranks),
        options_(std::move(options)),
        disk_(options_.hook) {}

  absl::Status Save(const std::vector<HostPiece>& pieces, const WaitFor& wait_for,
                    SaveReport* report) override {
    const std::string partial = directory_ + "/" + PartialName(report->facts);
    const int64_t begin_ns = kernels::MonotonicNs();
    RETURN_IF_ERROR(WriteOwn(partial, pieces, wait_for, report));
    report->write_seconds = SecondsSince(begin_ns);
    return rank_ == 0 ? Commit(partial, wait_for, report) : absl::OkStatus();
  }

  void Announced(const SaveReport& report) override {
    absl::Status removed = CheckFence();
    if (removed.ok()) {
      removed = RemoveOldCheckpoints(disk_, directory_, report.facts.step, options_.keep);
    }
    WarnOf(removed);
  }

  void Ended(const SaveReport& report) override {
    if (rank_ != 0 || report.status.ok()) return;
    WarnOf(RemoveLeftovers(disk_, directory_, report.facts.attempt));
  }

 private:
  absl::Status CheckFence() const { return options_.fence ? options_.fence() : absl::OkStatus(); }

  // Rank 0 makes the directory; the others see it appear. A save of the same name that failed has
  // been cleared away.
  absl::Status WriteOwn(const std::string& partial, const std::vector<HostPiece>& pieces,
                        const WaitFor& wait_for, SaveReport* report) const {
    if (rank_ == 0) {
      RETURN_IF_ERROR(Prepare(partial, report->facts.attempt));
    } else if (!wait_for([&] { return Exists(partial); })) {
      return absl::CancelledError("rank 0 made no directory");
    }
    ASSIGN_OR_RETURN(const Manifest part, WriteShard(disk_, partial, ShardName(rank_, num_ranks_),
                                                     report->facts, pieces));
    report->bytes = part.bytes();
    return WriteRecord(disk_, partial, rank_, part);
  }

  // An empty directory for the save.
  absl::Status Prepare(const std::string& partial, int attempt) const {
    RETURN_IF_ERROR(CheckFence());
    std::error_code error;
    const bool made = std::filesystem::create_directories(directory_, error);
    if (error) return absl::UnavailableError("cannot make " + directory_ + ": " + error.message());
    if (made) RETURN_IF_ERROR(disk_.SyncDirectory(run_directory_));
    RETURN_IF_ERROR(RemoveLeftovers(disk_, directory_, attempt));
    return disk_.MakeDirectory(partial);
  }

  absl::Status Commit(const std::string& partial, const WaitFor& wait_for,
                      SaveReport* report) const {
    int rank = 0;
    const bool all = wait_for([&] {
      while (rank < num_ranks_ && Exists(partial + "/" + RecordName(rank))) ++rank;
      return rank == num_ranks_;
    });
    if (!all) return absl::CancelledError("another rank wrote no shard");
    const std::string name = PartialName(report->facts);
    const absl::StatusOr<Manifest> whole =
        CommitCheckpoint(disk_, directory_, name, num_ranks_, [this] { return CheckFence(); });
    if (!whole.ok()) return kernels::Annotate(whole.status(), name + " is not committed");
    report->total_bytes = whole->bytes();
    return absl::OkStatus();
  }

  const std::string run_directory_, directory_;  // directory_: <run>/checkpoints
  const int rank_, num_ranks_;
  const DiskStoreOptions options_;
  const Disk disk_;
};

}  // namespace

std::unique_ptr<CheckpointStore> MakeDiskStore(const std::string& run_directory, int rank,
                                               int num_ranks, DiskStoreOptions options) {
  MUSTER_CHECK(options.keep >= 1) << "keep is " << options.keep;
  return std::make_unique<DiskStore>(run_directory, rank, num_ranks, std::move(options));
}

}  // namespace muster::runtime
