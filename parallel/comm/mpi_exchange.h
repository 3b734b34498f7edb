#pragma once
// Messages between the ranks of one MPI communicator, posted together and waited for under a
// deadline. MPI itself never waits: the calling thread tests, with back-off, because ranks share
// cores. A message longer than kMaxChunkBytes travels as full chunks and a shorter last one
// (perhaps empty), so a receiver notices every difference between the sizes of both ends.
//
// One exchange is used by one thread at a time. Peers are ranks of the communicator; errors name
// them by world rank. No MPI type is in this header: a communicator goes by its Fortran handle,
// which is an int in every MPI.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace muster::parallel {

using MpiHandle = int;

class MpiExchange {
 public:
  static constexpr int64_t kMaxChunkBytes = int64_t{8} << 20;
  using Clock = std::chrono::steady_clock;

  MpiExchange(MpiHandle communicator, std::vector<int> world_ranks);
  ~MpiExchange();  // abandons what has not ended
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  // Later messages carry `tag`, and Wait ends by `deadline`.
  void Begin(int tag, Clock::time_point deadline);
  // Post a message; the memory must stay until Wait returns. What fails here is told by Wait.
  void Send(int peer, const void* data, int64_t bytes);
  void Receive(int peer, void* data, int64_t bytes);
  // Until all posted messages have ended. Errors: DeadlineExceeded naming the peers still awaited;
  // InvalidArgument for a message of another size than expected; Unavailable with MPI's own words.
  // After an error the rest is abandoned, and the communicator must not be used again. Memory of a
  // message that a peer may still take, or is sending, has to stay until the process ends: any
  // thread that asks MPI for anything can carry it on.
  absl::Status Wait();
  // Gives up what is under way: the call has failed elsewhere.
  void Abandon();

 private:
  struct Requests;
  void Fail(const absl::Status& status);
  absl::Status CheckEnded(int num_ended);
  std::string DescribeAwaited() const;

  MpiHandle communicator_;
  std::vector<int> world_ranks_;
  std::unique_ptr<Requests> requests_;
  int tag_ = 0;
  Clock::time_point deadline_;
  absl::Status status_;
};

}  // namespace muster::parallel
