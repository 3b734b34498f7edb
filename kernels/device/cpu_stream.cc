#include "kernels/device/cpu_stream.h"

#include <omp.h>
#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

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

class CpuInlineStream : public StreamState {
 public:
  CpuInlineStream() : StreamState({DeviceType::kCpu, 0}, /*runs_inline=*/true) {}
  void Record(EventState& event) override {
    RecordCount& count = *CountOf(event);
    count.Complete(count.Issue());
  }
  void Wait(EventState& event) override {
    RecordCount& count = *CountOf(event);
    count.AwaitRecord(count.issued());
  }
  absl::Status Await(EventState& event) override {
    Wait(event);
    return error_.Get();
  }
  absl::Status Synchronize() override { return error_.Get(); }
  void Push(std::function<void()> work) override { work(); }
  void Fail(const absl::Status& status) override { error_.Set(status); }
  absl::Status status() override { return error_.Get(); }
  void* native_handle() override { return nullptr; }

 private:
  StickyError error_;
};

class CpuQueueStream : public StreamState {
 public:
  explicit CpuQueueStream(const std::string& name)
      : StreamState({DeviceType::kCpu, 0}, /*runs_inline=*/false),
        thread_([this, num_threads = omp_get_max_threads()] {
          omp_set_num_threads(num_threads);  // a new thread would start from OpenMP's default
          Run();
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
  void Record(EventState& event) override {
    const uint64_t record = CountOf(event)->Issue();
    Push([count = CountOf(event), record] { count->Complete(record); });
  }
  void Wait(EventState& event) override {
    const uint64_t record = CountOf(event)->issued();
    Push([count = CountOf(event), record] { count->AwaitRecord(record); });
  }
  absl::Status Await(EventState& event) override {
    CountOf(event)->AwaitRecord(CountOf(event)->issued());
    return error_.Get();
  }
  absl::Status Synchronize() override {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return queue_.empty() && !running_; });
    return error_.Get();
  }
  void Push(std::function<void()> work) override {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  void Fail(const absl::Status& status) override { error_.Set(status); }
  absl::Status status() override { return error_.Get(); }
  void* native_handle() override { return nullptr; }

 private:
  // Ends only once the queue is empty: enqueued work always runs.
  void Run() {
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

  StickyError error_;
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
