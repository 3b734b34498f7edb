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
// How often ranks that wait for a save tell each other that they still do: well below any deadline
// of a collective.
constexpr std::chrono::milliseconds kTellAgain{250};
// What a rank says that has not ended yet; no status is written so.
constexpr char kBusy[] = "busy";

double Since(int64_t begin_ns) {
  return static_cast<double>(kernels::MonotonicNs() - begin_ns) * 1e-9;
}

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

bool Checkpointer::IsDue(int64_t step) const {
  return options_.every_steps > 0 && step % options_.every_steps == 0;
}

absl::Status Checkpointer::MaybeSave(const CheckpointFacts& facts) {
  return IsDue(facts.step) ? Save(facts) : absl::OkStatus();
}

absl::Status Checkpointer::Save(const CheckpointFacts& facts) {
  const int64_t wait_begin_ns = kernels::MonotonicNs();
  RETURN_IF_ERROR(Finish());
  const int64_t begin_ns = kernels::MonotonicNs();
  flying_ = {.facts = facts, .wait_seconds = static_cast<double>(begin_ns - wait_begin_ns) * 1e-9};
  copied_ = begun_ = ended_ = give_up_ = false;
  Snapshot();
  writer_ = std::thread([this] { WriteBehind(); });
  {
    const std::lock_guard lock(mutex_);
    flying_.stall_seconds = Since(begin_ns);
    begun_ = true;
    changed_.notify_all();
  }
  return options_.asynchronous ? absl::OkStatus() : Finish();
}

absl::Status Checkpointer::CheckFence() const {
  return options_.fence ? options_.fence() : absl::OkStatus();
}

// On rank 0's writer: an empty directory for the save.
absl::Status Checkpointer::Prepare(const std::string& partial) {
  RETURN_IF_ERROR(CheckFence());
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) return absl::UnavailableError("cannot make " + directory_ + ": " + error.message());
  RETURN_IF_ERROR(RemoveLeftovers(disk_, directory_, flying_.facts.attempt));
  return disk_.MakeDirectory(partial);
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
void Checkpointer::WriteBehind() {
  const std::string partial = directory_ + "/" + PartialName(flying_.facts);
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return copied_ && begun_; });
  }
  const int64_t begin_ns = kernels::MonotonicNs();
  absl::Status status = WriteOwn(partial);
  flying_.write_seconds = Since(begin_ns);
  if (!status.ok() && !absl::IsCancelled(status)) {
    kernels::Log(kernels::Severity::kError,
                 "step " + std::to_string(flying_.facts.step) +
                     " is not saved; training goes on: " + std::string(status.message()));
  }
  if (world_.rank() == 0 && status.ok()) {
    status = Commit(partial);
    flying_.commit_seconds = Since(begin_ns);
    flying_.status = status;
    if (status.ok() && options_.ended) options_.ended(flying_);
    if (status.ok()) RemoveOld(flying_.facts.step);
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  result_ = status;
  changed_.notify_all();
}

// Rank 0 makes the directory; the others see it appear. No other save of this attempt has its name.
absl::Status Checkpointer::WriteOwn(const std::string& partial) {
  if (world_.rank() == 0) {
    RETURN_IF_ERROR(Prepare(partial));
  } else if (!WaitFor([&] { return Exists(partial); })) {
    return absl::CancelledError("rank 0 made no directory");
  }
  std::vector<HostPiece> pieces;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    pieces.push_back({pieces_[i].tensor, pieces_[i].data.dtype, pieces_[i].range,
                      static_cast<const char*>(host_.data()) + host_offset_[i]});
  }
  ASSIGN_OR_RETURN(
      const Manifest part,
      WriteShard(disk_, partial, ShardName(world_.rank(), world_.size()), flying_.facts, pieces));
  flying_.bytes = part.bytes();
  return WriteRecord(disk_, partial, world_.rank(), part);
}

// False: some rank has failed, so there is nothing to wait for.
bool Checkpointer::WaitFor(const std::function<bool()>& is_there) {
  for (std::unique_lock lock(mutex_); !give_up_;) {
    if (is_there()) return true;
    changed_.wait_for(lock, kLookAgain);
  }
  return false;
}

absl::Status Checkpointer::Commit(const std::string& partial) {
  int rank = 0;
  const bool all = WaitFor([&] {
    while (rank < world_.size() && Exists(partial + "/" + RecordName(rank))) ++rank;
    return rank == world_.size();
  });
  if (!all) return absl::CancelledError("another rank wrote no shard");
  const std::string name = PartialName(flying_.facts);
  const absl::StatusOr<Manifest> whole =
      CommitCheckpoint(disk_, directory_, name, world_.size(), [this] { return CheckFence(); });
  if (whole.ok()) {
    flying_.total_bytes = whole->bytes();
    return absl::OkStatus();
  }
  kernels::Log(kernels::Severity::kError, name + " is not committed; training goes on: " +
                                              std::string(whole.status().message()));
  return whole.status();
}

void Checkpointer::RemoveOld(int64_t newest) {
  absl::Status removed = CheckFence();
  if (removed.ok()) removed = RemoveOldCheckpoints(disk_, directory_, newest, options_.keep);
  if (!removed.ok()) kernels::Log(kernels::Severity::kWarning, std::string(removed.message()));
}

// What this rank's writer has come to: "" for success. Waits for it a while.
std::string Checkpointer::OwnProgress() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kTellAgain, [this] { return ended_; });
  return ended_ ? StatusText(result_) : kBusy;
}

// Collective. All ranks ask each other until every writer has ended, however long the disk takes.
absl::StatusOr<absl::Status> Checkpointer::AgreeOnEnd() {
  for (;;) {
    ASSIGN_OR_RETURN(std::vector<std::string> all, world_.GatherText(OwnProgress()));
    bool busy = false;
    for (std::string& text : all) {
      if (text != kBusy) continue;
      busy = true;
      text.clear();
    }
    const absl::Status failed = FirstError(all);
    if (!busy) return failed;
    if (options_.waiting) options_.waiting();
    if (failed.ok()) continue;
    const std::lock_guard lock(mutex_);
    give_up_ = true;
    changed_.notify_all();
  }
}

absl::Status Checkpointer::Finish() {
  if (!writer_.joinable()) return absl::OkStatus();
  ASSIGN_OR_RETURN(flying_.status, AgreeOnEnd());
  writer_.join();
  last_ = flying_;
  if (last_.status.ok()) return absl::OkStatus();
  if (world_.rank() == 0) {
    const absl::Status removed = RemoveLeftovers(disk_, directory_, last_.facts.attempt);
    if (!removed.ok()) kernels::Log(kernels::Severity::kWarning, std::string(removed.message()));
    if (options_.ended) options_.ended(last_);
  }
  return absl::IsAborted(last_.status) ? last_.status : absl::OkStatus();
}

}  // namespace muster::runtime
