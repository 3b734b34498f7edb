#include "kernels/device/cpu_stream.h"

#include <omp.h>
#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace muster::kernels {
namespace {

// Counts records: `issued` grows when a record is enqueued, `completed` when the stream gets there.
class RecordCount {
 public:
  uint64_t Issue() {
    std::lock_guard lock(mutex_);
    return ++issued_;
  }
  uint64_t issued() {
    std::lock_guard lock(mutex_);
    return issued_;
  }
  void Complete(uint64_t record) {
    {
      std::lock_guard lock(mutex_);
      if (record > completed_) completed_ = record;
    }
    reached_.notify_all();
  }
  void AwaitRecord(uint64_t record) {
    std::unique_lock lock(mutex_);
    reached_.wait(lock, [&] { return completed_ >= record; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable reached_;
  uint64_t issued_ = 0, completed_ = 0;
};

// Queued work shares the count: as on CUDA, an event may end while a record or a wait is enqueued.
class CpuEvent : public EventState {
 public:
  const std::shared_ptr<RecordCount>& count() const { return count_; }

 private:
  const std::shared_ptr<RecordCount> count_ = std::make_shared<RecordCount>();
};

const std::shared_ptr<RecordCount>& CountOf(const EventState& event) {
  return static_cast<const CpuEvent&>(event).count();
}

class StickyError {
 public:
  void Set(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = status;
  }
  absl::Status Get() {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  std::mutex mutex_;
  absl::Status status_;
};

class CpuGraph : public RecordedWork {
 public:
  std::vector<std::function<void()>> work;
};

// What both kinds of CPU stream share: their first error, and recordings.
class CpuStream : public StreamState {
 public:
  explicit CpuStream(bool runs_inline) : StreamState({DeviceType::kCpu, 0}, runs_inline) {}
  void Push(std::function<void()> work) override {
    if (records) {
      recording_->work.push_back(std::move(work));
    } else {
      Run(std::move(work));
    }
  }
  void Record(EventState& event) override {
    if (records) return Refuse("an event's record");
    const uint64_t record = CountOf(event)->Issue();
    Run([count = CountOf(event), record] { count->Complete(record); });
  }
  void Wait(EventState& event) override {
    if (records) return Refuse("a wait for an event");
    const uint64_t record = CountOf(event)->issued();
    Run([count = CountOf(event), record] { count->AwaitRecord(record); });
  }
  absl::Status Await(EventState& event) override {
    CountOf(event)->AwaitRecord(CountOf(event)->issued());
    return error_.Get();
  }
  void Fail(const absl::Status& status) override { error_.Set(status); }
  absl::Status status() override { return error_.Get(); }
  void* native_handle() override { return nullptr; }
  absl::Status BeginRecording() override {
    recording_ = std::make_unique<CpuGraph>();
    refused_ = absl::OkStatus();
    records = true;
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<RecordedWork>> EndRecording() override {
    records = false;
    std::unique_ptr<RecordedWork> recorded = std::move(recording_);
    if (!refused_.ok()) return refused_;
    return recorded;
  }
  void Launch(RecordedWork& work) override {
    for (const std::function<void()>& piece : static_cast<CpuGraph&>(work).work) Run(piece);
  }

 protected:
  absl::Status Error() { return error_.Get(); }

 private:
  virtual void Run(std::function<void()> work) = 0;
  void Refuse(const std::string& what) {
    if (refused_.ok()) refused_ = absl::FailedPreconditionError(what + " cannot be recorded");
  }

  StickyError error_;
  std::unique_ptr<CpuGraph> recording_;
  absl::Status refused_;
};

class CpuInlineStream : public CpuStream {
 public:
  CpuInlineStream() : CpuStream(/*runs_inline=*/true) {}
  absl::Status Synchronize() override { return Error(); }

 private:
  void Run(std::function<void()> work) override { work(); }
};

class CpuQueueStream : public CpuStream {
 public:
  explicit CpuQueueStream(const std::string& name)
      : CpuStream(/*runs_inline=*/false), thread_([this, num_threads = omp_get_max_threads()] {
          omp_set_num_threads(num_threads);  // a new thread would start from OpenMP's default
          Work();
        }) {
    pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
  }
  ~CpuQueueStream() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  absl::Status Synchronize() override {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return queue_.empty() && !running_; });
    return Error();
  }

 private:
  void Run(std::function<void()> work) override {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  // Ends only once the queue is empty: enqueued work always runs.
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      running_ = true;
      lock.unlock();
      work();
      work = nullptr;  // What it captured ends before the stream counts as idle.
      lock.lock();
      running_ = false;
      if (queue_.empty()) idle_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_, idle_;
  std::deque<std::function<void()>> queue_;
  bool running_ = false, stopping_ = false;
  std::thread thread_;  // last: starts when all else stands
};

}  // namespace

std::unique_ptr<EventState> MakeCpuEvent() { return std::make_unique<CpuEvent>(); }
std::unique_ptr<StreamState> MakeCpuInlineStream() { return std::make_unique<CpuInlineStream>(); }
std::unique_ptr<StreamState> MakeCpuQueueStream(const std::string& name) {
  return std::make_unique<CpuQueueStream>(name);
}

}  // namespace muster::kernels
