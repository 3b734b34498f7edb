#include "runtime/checkpoint/checkpointer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/memory.h"
#include "kernels/device/span.h"
#include "parallel/comm/time_category.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/disk_store.h"
#include "runtime/checkpoint/seconds_since.h"

namespace muster::runtime {
namespace {

// How often a store looks for what other ranks write; it costs one stat a rank still missing.
constexpr std::chrono::milliseconds kLookAgain{5};
// How often ranks that wait for a save tell each other that they still do: well below any deadline
// of a collective.
constexpr std::chrono::milliseconds kTellAgain{250};
// What a rank says that has not ended yet; no status is written so.
constexpr char kBusy[] = "busy";
constexpr int64_t kMostIntervalsBack = 8;  // between two tries

}  // namespace

Checkpointer::Checkpointer(std::unique_ptr<CheckpointStore> store, std::vector<SavedPiece> pieces,
                           parallel::World& world, kernels::StreamView compute,
                           CheckpointOptions options)
    : store_(std::move(store)),
      pieces_(std::move(pieces)),
      world_(world),
      compute_(compute),
      options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Checkpointer>> Checkpointer::Create(const std::string& run_directory,
                                                                   std::vector<SavedPiece> pieces,
                                                                   parallel::World& world,
                                                                   kernels::StreamView compute,
                                                                   CheckpointOptions options) {
  auto store = MakeDiskStore(run_directory, world.rank(), world.size(),
                             {.keep = options.keep, .fence = options.fence, .hook = options.hook});
  return CreateWith(std::move(store), std::move(pieces), world, compute, std::move(options));
}

absl::StatusOr<std::unique_ptr<Checkpointer>> Checkpointer::CreateWith(
    std::unique_ptr<CheckpointStore> store, std::vector<SavedPiece> pieces, parallel::World& world,
    kernels::StreamView compute, CheckpointOptions options) {
  std::unique_ptr<Checkpointer> checkpointer(
      new Checkpointer(std::move(store), std::move(pieces), world, compute, std::move(options)));
  Checkpointer& c = *checkpointer;
  int64_t bytes = 0;
  for (const SavedPiece& piece : c.pieces_) {
    MUSTER_CHECK(piece.data.IsContiguous() && piece.data.num_elements() == piece.range.count)
        << piece.tensor << ": " << piece.data.ToString() << " holds no " << piece.range.count;
    c.host_offset_.push_back(bytes);
    bytes += (piece.data.bytes() + kernels::kMemoryAlignment - 1) / kernels::kMemoryAlignment *
             kernels::kMemoryAlignment;
  }
  ASSIGN_OR_RETURN(c.host_,
                   kernels::HostRegion::Reserve(compute.device(), std::max<int64_t>(bytes, 1)));
  if (!c.options_.overlap_copy) return checkpointer;
  for (std::unique_ptr<kernels::Event>* event : {&c.ready_, &c.copy_done_}) {
    ASSIGN_OR_RETURN(kernels::Event made, kernels::Event::Create(compute.device()));
    *event = std::make_unique<kernels::Event>(std::move(made));
  }
  ASSIGN_OR_RETURN(
      kernels::Stream stream,
      kernels::Stream::Create(compute.device(), kernels::StreamMode::kQueue, "snapshot"));
  c.copy_stream_ = std::make_unique<kernels::Stream>(std::move(stream));
  return checkpointer;
}

Checkpointer::~Checkpointer() {
  if (clearer_.joinable()) clearer_.join();
  if (!writer_.joinable()) return;
  // The snapshot's last work names `this`.
  const absl::Status copied =
      copy_stream_ ? copy_stream_->view().Synchronize() : compute_.Synchronize();
  if (!copied.ok()) kernels::Log(kernels::Severity::kError, std::string(copied.message()));
  {
    const std::lock_guard lock(mutex_);
    give_up_ = true;
  }
  changed_.notify_all();
  writer_.join();
}

bool Checkpointer::IsDue(int64_t step) const {
  if (options_.every_steps == 0 || step < retry_step_) return false;
  return step % options_.every_steps == 0 || put_off_step_ != 0;
}

bool Checkpointer::Begins(int64_t step) {
  const bool due = IsDue(step);
  if (due && !writer_.joinable()) return true;
  marked_ = false;
  if (!due || step % options_.every_steps != 0 || put_off_step_ == step) return false;
  put_off_step_ = step;
  ++num_put_off_;
  if (world_.rank() == 0 && options_.put_off) {
    options_.put_off(step, flying_.facts, SecondsSince(begin_ns_));
  }
  return false;
}

absl::StatusOr<bool> Checkpointer::MaybeSave(const CheckpointFacts& facts) {
  if (!Begins(facts.step)) return false;
  RETURN_IF_ERROR(Begin(facts, /*wait_seconds=*/0));
  return true;
}

absl::Status Checkpointer::Save(const CheckpointFacts& facts) {
  const int64_t begin_ns = kernels::MonotonicNs();
  RETURN_IF_ERROR(AwaitEnd());
  return Begin(facts, SecondsSince(begin_ns));
}

absl::Status Checkpointer::Begin(const CheckpointFacts& facts, double wait_seconds) {
  begin_ns_ = kernels::MonotonicNs();
  put_off_step_ = 0;
  flying_ = {.facts = facts, .wait_seconds = wait_seconds};
  copied_ = begun_ = ended_ = give_up_ = false;
  RETURN_IF_ERROR(Snapshot());
  if (options_.snapshot_taken) options_.snapshot_taken(facts);
  writer_ = std::thread([this, clearer = std::move(clearer_)]() mutable {
    if (clearer.joinable()) clearer.join();
    WriteBehind();
  });
  {
    const std::lock_guard lock(mutex_);
    flying_.stall_seconds = SecondsSince(begin_ns_);
    begun_ = true;
    changed_.notify_all();
  }
  return options_.asynchronous ? absl::OkStatus() : Finish();
}

void Checkpointer::Mark() {
  if (copy_stream_ == nullptr) return;
  compute_.Record(ready_->view());
  marked_ = true;
}

absl::Status Checkpointer::Snapshot() {
  RETURN_IF_ERROR(host_->Await());
  const kernels::Span span(compute_, "snapshot", parallel::kCheckpoint);
  const kernels::StreamView stream = copy_stream_ ? copy_stream_->view() : compute_;
  if (copy_stream_) {
    if (!std::exchange(marked_, false)) compute_.Record(ready_->view());
    stream.Wait(ready_->view());
  }
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const kernels::TensorView& data = pieces_[i].data;
    host_->CopyFrom(data.data, host_offset_[i], data.bytes(), stream);
  }
  if (copy_stream_) {
    stream.Record(copy_done_->view());
    copy_pending_ = true;
  }
  stream.Enqueue([this] {
    const std::lock_guard lock(mutex_);
    copied_ = true;
    changed_.notify_all();
  });
  return absl::OkStatus();
}

void Checkpointer::BeforeUpdate() {
  if (!copy_pending_) return;
  copy_pending_ = false;
  const kernels::Span span(compute_, "snapshot", parallel::kCheckpoint);
  compute_.Wait(copy_done_->view());
}

// On the writer thread.
void Checkpointer::WriteBehind() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return copied_ && begun_; });
  }
  const int64_t begin_ns = kernels::MonotonicNs();
  std::vector<HostPiece> pieces;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    pieces.push_back({pieces_[i].tensor, pieces_[i].data.dtype, pieces_[i].range,
                      host_->data() + host_offset_[i]});
  }
  const absl::Status status = store_->Save(
      pieces, [this](const std::function<bool()>& is_there) { return WaitUntil(is_there); },
      &flying_);
  if (!status.ok() && !absl::IsCancelled(status)) {
    kernels::Log(kernels::Severity::kError,
                 "step " + std::to_string(flying_.facts.step) +
                     " is not saved; training goes on: " + std::string(status.message()));
  }
  if (world_.rank() == 0) {
    flying_.commit_seconds = SecondsSince(begin_ns);
    flying_.status = status;
    if (status.ok() && options_.ended) options_.ended(flying_);
  }
  if (status.ok() && world_.rank() == 0) store_->Announced(flying_);
  const std::lock_guard lock(mutex_);
  ended_ = true;
  result_ = status;
  changed_.notify_all();
}

// False: some rank has failed, so there is nothing to wait for.
bool Checkpointer::WaitUntil(const std::function<bool()>& is_there) {
  for (std::unique_lock lock(mutex_); !give_up_;) {
    if (is_there()) return true;
    changed_.wait_for(lock, kLookAgain);
  }
  return false;
}

std::string Checkpointer::Progress() {
  if (!writer_.joinable()) return "";
  const std::lock_guard lock(mutex_);
  return ended_ ? StatusText(result_) : kBusy;
}

absl::Status Checkpointer::Hear(const std::vector<std::string>& all) {
  if (!writer_.joinable()) return absl::OkStatus();
  std::vector<std::string> ended = all;
  bool busy = false;
  for (std::string& text : ended) {
    if (text != kBusy) continue;
    busy = true;
    text.clear();
  }
  const absl::Status status = FirstError(ended);
  if (!busy) return Conclude(status);
  if (status.ok()) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  give_up_ = true;
  changed_.notify_all();
  return absl::OkStatus();
}

absl::Status Checkpointer::Conclude(const absl::Status& status) {
  writer_.join();
  flying_.status = status;
  last_ = flying_;
  if (last_.status.ok()) {
    store_->Ended(last_);
    committed_step_ = last_.facts.step;
    failures_ = 0;
    retry_step_ = 0;
    return absl::OkStatus();
  }
  const int64_t intervals = std::min(int64_t{1} << std::min(failures_++, 30), kMostIntervalsBack);
  retry_step_ = last_.facts.step + intervals * options_.every_steps;
  clearer_ = std::thread([this, report = last_] { store_->Ended(report); });
  if (world_.rank() == 0 && options_.ended) options_.ended(last_);
  return absl::IsAborted(last_.status) ? last_.status : absl::OkStatus();
}

// A while at most.
void Checkpointer::AwaitOwnEnd() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kTellAgain, [this] { return ended_; });
}

// All ranks tell each other until every writer has ended, however long the disk takes.
absl::Status Checkpointer::AwaitEnd() {
  while (writer_.joinable()) {
    AwaitOwnEnd();
    ASSIGN_OR_RETURN(const std::vector<std::string> all, world_.GatherText(Progress()));
    RETURN_IF_ERROR(Hear(all));
    if (writer_.joinable() && options_.waiting) options_.waiting();
  }
  return absl::OkStatus();
}

absl::Status Checkpointer::Finish() {
  RETURN_IF_ERROR(AwaitEnd());
  if (clearer_.joinable()) clearer_.join();
  return absl::OkStatus();
}

}  // namespace muster::runtime
