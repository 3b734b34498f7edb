#include "parallel/comm/mpi_exchange.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

// How a waiting thread gives way: the answer is often there at once; if not, another rank on this
// core has to run before it can come, and after that the wait is long enough to sleep.
class Backoff {
 public:
  void Reset() { polls_ = 0; }
  void Pause() {
    ++polls_;
    if (polls_ <= kSpins) return;
    if (polls_ <= kSpins + kYields) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(30));
    }
  }

 private:
  static constexpr int kSpins = 16, kYields = 48;
  int polls_ = 0;
};

absl::Status MpiError(int code, const std::string& what) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(what + ": " + std::string(text, static_cast<size_t>(length)));
}

std::string Join(const std::set<int>& numbers) {
  std::string text;
  for (int number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

}  // namespace

struct MpiExchange::Requests {
  struct Message {
    int peer;
    int64_t bytes;
    bool receives;
  };
  std::vector<MPI_Request> active;
  std::vector<Message> messages;  // of each request
  std::vector<int> ended;         // scratch of MPI_Testsome
  std::vector<MPI_Status> statuses;

  void Clear() {
    active.clear();
    messages.clear();
  }
  // Returns MPI's code; `*num_ended` is MPI_UNDEFINED once none is active.
  int Test(int* num_ended) {
    ended.resize(active.size());
    statuses.resize(active.size());
    return MPI_Testsome(static_cast<int>(active.size()), active.data(), num_ended, ended.data(),
                        statuses.data());
  }
};

MpiExchange::MpiExchange(MpiHandle communicator, std::vector<int> world_ranks)
    : communicator_(communicator),
      world_ranks_(std::move(world_ranks)),
      requests_(std::make_unique<Requests>()) {}

MpiExchange::~MpiExchange() { Abandon(); }

void MpiExchange::Begin(int tag, Clock::time_point deadline) {
  MUSTER_CHECK(requests_->active.empty());
  tag_ = tag;
  deadline_ = deadline;
  status_ = absl::OkStatus();
}

void MpiExchange::Fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void MpiExchange::Send(int peer, const void* data, int64_t bytes) {
  const MPI_Comm communicator = MPI_Comm_f2c(communicator_);
  for (int64_t begin = 0, size = kMaxChunkBytes; size == kMaxChunkBytes; begin += size) {
    size = std::min(kMaxChunkBytes, bytes - begin);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Isend(static_cast<const char*>(data) + begin, static_cast<int>(size),
                               MPI_BYTE, peer, tag_, communicator, &request);
    if (code != MPI_SUCCESS) return Fail(MpiError(code, "MPI_Isend"));
    requests_->active.push_back(request);
    requests_->messages.push_back({peer, size, /*receives=*/false});
  }
}

void MpiExchange::Receive(int peer, void* data, int64_t bytes) {
  const MPI_Comm communicator = MPI_Comm_f2c(communicator_);
  for (int64_t begin = 0, size = kMaxChunkBytes; size == kMaxChunkBytes; begin += size) {
    size = std::min(kMaxChunkBytes, bytes - begin);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Irecv(static_cast<char*>(data) + begin, static_cast<int>(size), MPI_BYTE,
                               peer, tag_, communicator, &request);
    if (code != MPI_SUCCESS) return Fail(MpiError(code, "MPI_Irecv"));
    requests_->active.push_back(request);
    requests_->messages.push_back({peer, size, /*receives=*/true});
  }
}

absl::Status MpiExchange::Wait() {
  Backoff backoff;
  while (status_.ok()) {
    int num_ended = 0;
    const int code = requests_->Test(&num_ended);
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
      Fail(MpiError(code, "MPI_Testsome"));
    } else if (num_ended == MPI_UNDEFINED) {
      break;
    } else if (num_ended > 0) {
      if (code == MPI_SUCCESS) {
        for (int i = 0; i < num_ended; ++i)
          requests_->statuses[static_cast<size_t>(i)].MPI_ERROR = 0;
      }
      Fail(CheckEnded(num_ended));
      backoff.Reset();
    } else if (Clock::now() >= deadline_) {
      Fail(absl::DeadlineExceededError(DescribeAwaited()));
    } else {
      backoff.Pause();
    }
  }
  if (!status_.ok()) Abandon();
  requests_->Clear();
  return status_;
}

// Of the messages that the last test found ended: was each as long as agreed?
absl::Status MpiExchange::CheckEnded(int num_ended) {
  for (int i = 0; i < num_ended; ++i) {
    const MPI_Status& end = requests_->statuses[static_cast<size_t>(i)];
    const auto& message =
        requests_->messages[static_cast<size_t>(requests_->ended[static_cast<size_t>(i)])];
    const std::string peer =
        "world rank " + std::to_string(world_ranks_[static_cast<size_t>(message.peer)]);
    int error_class = MPI_SUCCESS;
    MPI_Error_class(end.MPI_ERROR, &error_class);
    int received = 0;
    if (message.receives) MPI_Get_count(&end, MPI_BYTE, &received);
    if (error_class == MPI_ERR_TRUNCATE) {
      return absl::InvalidArgumentError(
          peer + " sent more than the " + std::to_string(message.bytes) +
          " bytes that this rank expected; both must agree on counts and shapes");
    }
    if (error_class != MPI_SUCCESS) return MpiError(end.MPI_ERROR, "the message of " + peer);
    if (message.receives && received != message.bytes) {
      return absl::InvalidArgumentError(
          peer + " sent " + std::to_string(received) + " bytes where this rank expected " +
          std::to_string(message.bytes) + "; both must agree on counts and shapes");
    }
  }
  return absl::OkStatus();
}

std::string MpiExchange::DescribeAwaited() const {
  std::set<int> silent, not_taking;
  for (size_t i = 0; i < requests_->active.size(); ++i) {
    if (requests_->active[i] == MPI_REQUEST_NULL) continue;
    const auto& message = requests_->messages[i];
    (message.receives ? silent : not_taking)
        .insert(world_ranks_[static_cast<size_t>(message.peer)]);
  }
  std::string text;
  if (!silent.empty()) text = "no message came from world rank " + Join(silent);
  if (!not_taking.empty()) {
    text += (text.empty() ? "" : "; ") + std::string("none was taken by world rank ") +
            Join(not_taking);
  }
  return text;
}

// Receives are cancelled. A send cannot be (Open MPI does not support it): it is let go.
void MpiExchange::Abandon() {
  bool receiving = false;
  for (size_t i = 0; i < requests_->active.size(); ++i) {
    MPI_Request& request = requests_->active[i];
    if (request == MPI_REQUEST_NULL) continue;
    if (requests_->messages[i].receives) {
      MPI_Cancel(&request);
      receiving = true;
    } else {
      MPI_Request_free(&request);
    }
  }
  // A receive already under way cannot be cancelled, but ends soon if its sender lives.
  const auto give_up = Clock::now() + std::chrono::milliseconds(100);
  Backoff backoff;
  for (int num_ended = 0; receiving && Clock::now() < give_up; backoff.Pause()) {
    requests_->Test(&num_ended);
    if (num_ended == MPI_UNDEFINED) receiving = false;
  }
  for (MPI_Request& request : requests_->active) {
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
  requests_->Clear();
}

}  // namespace muster::parallel
