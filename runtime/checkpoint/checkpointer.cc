#include "runtime/checkpoint/checkpointer.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "parallel/comm/time_category.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/writer.h"

namespace muster::runtime {
namespace {

// How often rank 0 looks for the records of the others; it costs one stat a rank still missing.
constexpr std::chrono::milliseconds kLookAgain{5};

double Since(int64_t begin_ns) {
  return static_cast<double>(kernels::MonotonicNs() - begin_ns) * 1e-9;
}

std::string PartialName(int64_t step) { return CheckpointName(step) + ".partial"; }

bool Exists(const std::string& path) {
  struct stat facts {};
  return lstat(path.c_str(), &facts) == 0;
}

}  // namespace

Checkpointer::Checkpointer(const std::string& run_directory, std::vector<SavedPiece> pieces,
                           parallel::World& world, kernels::StreamView compute,
                           CheckpointOptions options)
    : directory_(run_directory + "/checkpoints"),
      pieces_(std::move(pieces)),
      world_(world),
      compute_(compute),
      options_(std::move(options)),
      disk_(options_.hook) {}

absl::StatusOr<std::unique_ptr<Checkpointer>> Checkpointer::Create(const std::string& run_directory,
                                                                   std::vector<SavedPiece> pieces,
                                                                   parallel::World& world,
                                                                   kernels::StreamView compute,
                                                                   CheckpointOptions options) {
  MUSTER_CHECK(options.keep >= 1) << "keep is " << options.keep;
  std::unique_ptr<Checkpointer> checkpointer(
      new Checkpointer(run_directory, std::move(pieces), world, compute, std::move(options)));
  int64_t bytes = 0;
  for (const SavedPiece& piece : checkpointer->pieces_) {
    MUSTER_CHECK(piece.data.IsContiguous() && piece.data.num_elements() == piece.range.count)
        << piece.tensor << ": " << piece.data.ToString() << " holds no " << piece.range.count;
    checkpointer->host_offset_.push_back(bytes);
    bytes += (piece.data.bytes() + kernels::kMemoryAlignment - 1) / kernels::kMemoryAlignment *
             kernels::kMemoryAlignment;
  }
  ASSIGN_OR_RETURN(checkpointer->host_, kernels::DeviceBuffer::AllocateHost(
                                            compute.device(), std::max<int64_t>(bytes, 1)));
  return checkpointer;
}

Checkpointer::~Checkpointer() {
  if (!writer_.joinable()) return;
  const absl::Status copied = compute_.Synchronize();  // the snapshot's last work names `this`
  if (!copied.ok()) kernels::Log(kernels::Severity::kError, std::string(copied.message()));
  {
    const std::lock_guard lock(mutex_);
    give_up_ = true;
  }
  changed_.notify_all();
  writer_.join();
}

absl::Status Checkpointer::MaybeSave(const CheckpointFacts& facts) {
  if (options_.every_steps <= 0 || facts.step % options_.every_steps != 0) return absl::OkStatus();
  return Save(facts);
}

absl::Status Checkpointer::Save(const CheckpointFacts& facts) {
  RETURN_IF_ERROR(Finish());
  const int64_t begin_ns = kernels::MonotonicNs();
  flying_ = {.step = facts.step};
  const absl::Status prepared =
      world_.rank() == 0 ? Prepare(PartialName(facts.step)) : absl::OkStatus();
  ASSIGN_OR_RETURN(flying_.status, Agree(prepared, world_));
  if (!flying_.status.ok()) {
    if (!prepared.ok()) kernels::Log(kernels::Severity::kError, std::string(prepared.message()));
    last_ = flying_;
    return absl::OkStatus();
  }
  copied_ = written_ = give_up_ = false;
  Snapshot();
  writer_ = std::thread([this, facts] { WriteBehind(facts); });
  flying_.stall_seconds = Since(begin_ns);
  return options_.asynchronous ? absl::OkStatus() : Finish();
}

// On rank 0: an empty directory for the save.
absl::Status Checkpointer::Prepare(const std::string& partial) {
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) return absl::UnavailableError("cannot make " + directory_ + ": " + error.message());
  RETURN_IF_ERROR(RemoveLeftovers(disk_, directory_));
  return disk_.MakeDirectory(directory_ + "/" + partial);
}

void Checkpointer::Snapshot() {
  const kernels::Span span(compute_, "snapshot", parallel::kCheckpoint);
  char* host = static_cast<char*>(host_.data());
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const kernels::TensorView& data = pieces_[i].data;
    kernels::CopyAsync(host + host_offset_[i], data.data, data.bytes(), compute_);
  }
  compute_.Enqueue([this] {
    const std::lock_guard lock(mutex_);
    copied_ = true;
    changed_.notify_all();
  });
}

// On the writer thread: shard and record; then, on rank 0, the commit.
void Checkpointer::WriteBehind(const CheckpointFacts& facts) {
  const std::string partial = directory_ + "/" + PartialName(facts.step);
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return copied_; });
  }
  const int64_t begin_ns = kernels::MonotonicNs();
  std::vector<HostPiece> pieces;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    pieces.push_back({pieces_[i].tensor, pieces_[i].data.dtype, pieces_[i].range,
                      static_cast<const char*>(host_.data()) + host_offset_[i]});
  }
  const absl::StatusOr<Manifest> part =
      WriteShard(disk_, partial, ShardName(world_.rank(), world_.size()), facts, pieces);
  absl::Status status = part.status();
  if (status.ok()) status = WriteRecord(disk_, partial, world_.rank(), *part);
  if (part.ok()) flying_.bytes = part->bytes();
  flying_.write_seconds = Since(begin_ns);
  if (!status.ok()) {
    kernels::Log(kernels::Severity::kError,
                 "step " + std::to_string(facts.step) +
                     " is not saved; training goes on: " + std::string(status.message()));
  }
  SetWritten(status);
  if (world_.rank() == 0) Commit(PartialName(facts.step), begin_ns);
}

void Checkpointer::SetWritten(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  written_ = true;
  written_status_ = status;
  changed_.notify_all();
}

// False: some rank has failed, and all have stopped writing, so there is nothing to wait for.
bool Checkpointer::WaitForRecords(const std::string& partial) {
  int rank = 0;
  for (std::unique_lock lock(mutex_); !give_up_;) {
    while (rank < world_.size() && Exists(partial + "/" + RecordName(rank))) ++rank;
    if (rank == world_.size()) return true;
    changed_.wait_for(lock, kLookAgain);
  }
  return false;
}

void Checkpointer::Commit(const std::string& partial, int64_t begin_ns) {
  absl::StatusOr<Manifest> whole = absl::CancelledError("a rank did not write its shard");
  if (WaitForRecords(directory_ + "/" + partial)) {
    whole = CommitCheckpoint(disk_, directory_, partial, world_.size());
    if (!whole.ok()) {
      kernels::Log(kernels::Severity::kError, partial + " is not committed; training goes on: " +
                                                  std::string(whole.status().message()));
    }
  }
  flying_.commit_seconds = Since(begin_ns);
  commit_status_ = whole.status();  // read by Finish after the thread has been joined
  const absl::Status removed =
      whole.ok() ? RemoveOldCheckpoints(disk_, directory_, whole->facts.step, options_.keep)
                 : RemoveLeftovers(disk_, directory_);
  if (!removed.ok()) kernels::Log(kernels::Severity::kWarning, std::string(removed.message()));
}

absl::Status Checkpointer::Finish() {
  if (!writer_.joinable()) return absl::OkStatus();
  absl::Status written;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return written_; });
    written = written_status_;
  }
  ASSIGN_OR_RETURN(const absl::Status all_written, Agree(written, world_));
  if (!all_written.ok()) {
    const std::lock_guard lock(mutex_);
    give_up_ = true;
    changed_.notify_all();
  }
  writer_.join();
  const bool decides = world_.rank() == 0 && all_written.ok();
  ASSIGN_OR_RETURN(const absl::Status committed,
                   Agree(decides ? commit_status_ : absl::OkStatus(), world_));
  flying_.status = all_written.ok() ? committed : all_written;
  last_ = flying_;
  return absl::OkStatus();
}

}  // namespace muster::runtime
