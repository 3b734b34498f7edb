#pragma once
// How the processes of a job find each other: one World per process, from which all process groups
// are made. Under mpirun (or srun with PMIx) it is MPI's world, initialised with
// MPI_THREAD_MULTIPLE; a process started alone is a world of one and does not touch MPI.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/collective_log.h"
#include "parallel/comm/process_group.h"

namespace muster::parallel {

// A slow link for tests: each message additionally takes latency + bytes / bandwidth, slept, not
// computed, by the thread that runs the collective. Zero is off.
//
// A rank has one link, which carries one message at a time each way. Before a rank sends the
// messages of a step (to all peers of a reduce-scatter, all-gather or all-to-all, to one child of a
// broadcast, or the only one of a Shift or a Send) it sleeps for what they take one after the
// other; receiving alone adds nothing. So a reduce-scatter or all-gather of B bytes over n ranks
// takes (n-1) (latency + B / n / bandwidth) more, counted from the last rank's arrival.
struct InjectedLink {
  double latency_us = 0;
  double gigabytes_per_second = 0;  // 0: no bandwidth limit

  std::chrono::nanoseconds TimeOf(int64_t num_messages, int64_t bytes) const {
    double ns = latency_us * 1e3 * static_cast<double>(num_messages);
    if (gigabytes_per_second > 0) ns += static_cast<double>(bytes) / gigabytes_per_second;
    return std::chrono::nanoseconds(static_cast<int64_t>(ns));
  }
};

// For groups on GPUs. 0: NCCL's choice.
struct NcclOptions {
  // kZero: no blocks for reduce-scatters of sums and all-gathers in groups whose calls run beside
  // compute; copy engines carry them (parallel/comm/collectives.h, UseCopyEngines).
  enum class CtaPolicy { kDefault, kEfficiency, kZero };
  int min_ctas = 0, max_ctas = 0;  // blocks, so SMs, that a collective takes
  // Most in groups whose calls run beside compute (those of data parallelism); 0: max_ctas.
  int overlapped_max_ctas = 0;
  int cga_cluster_size = 0;  // blocks of a cluster
  CtaPolicy cta_policy = CtaPolicy::kDefault;
  // Multicast in NVLink switches. A process that ends badly while using it can take the host's GPUs
  // with it.
  bool nvls = false;
  // Sums to the bit as on MPI, rank by rank in the accumulator dtype, at more traffic and memory;
  // parallel/comm/nccl_backend.h has the costs.
  bool sums_in_rank_order = false;
};

struct WorldOptions {
  // A collective that has not ended by then fails with DeadlineExceeded and names itself. On a GPU
  // it counts from when the device gets to the collective. See also World::SetDeadline.
  std::chrono::milliseconds deadline{60'000};
  // Of groups of category kCheckpoint, always: their calls run behind training, beside a store that
  // may be slow, while `deadline` follows the steps.
  std::chrono::milliseconds background_deadline{600'000};
  InjectedLink injected_link;  // CPU only
  NcclOptions nccl;
};

class World {
 public:
  // Errors: MPI without MPI_THREAD_MULTIPLE; a launcher's environment that MPI does not confirm.
  // All ranks of the job call it. The first World of a process starts MPI and, when it ends, stops
  // it; a World made meanwhile (tests do, with other options) shares it.
  static absl::StatusOr<std::unique_ptr<World>> Create(const WorldOptions& options);
  // A world of one, whatever started the process (tests compare N ranks with it).
  static std::unique_ptr<World> Alone();
  virtual ~World() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this host
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  CollectiveLog& log() { return log_; }
  // Of collectives that begin from now on, on all groups. Thread-safe.
  void SetDeadline(std::chrono::milliseconds deadline) { deadline_ = deadline; }
  std::chrono::milliseconds deadline() const { return deadline_; }

  // All ranks of `world_ranks` (ascending, this rank among them) call it, in the same order.
  // `device` is where the group's tensors live: MPI serves the CPU, NCCL the GPUs, one per rank;
  // a group on a GPU makes that the calling thread's current CUDA device. Errors: a rank that does
  // not come within the deadline, or comes to make another group; a GPU that is not there, or not
  // usable by NCCL.
  virtual absl::StatusOr<std::unique_ptr<ProcessGroup>> NewGroup(std::string name,
                                                                 std::vector<int> world_ranks,
                                                                 TimeCategory category,
                                                                 kernels::Device device) = 0;
  // Every rank's `text`, by rank; blocks, for no longer than the deadline. For small things at
  // start-up: hashes, host names.
  virtual absl::StatusOr<std::vector<std::string>> GatherText(const std::string& text) = 0;
  // All ranks call it with one directory. From then on, when a collective fails on any rank, every
  // rank that can writes its collective log there (parallel/comm/hang_listener.h).
  virtual void KeepHangEvidence(const std::string& directory) { (void)directory; }
  // What those logs say, which is in this process's log by then; empty if no collective failed on
  // this rank. Waits until they are there, about a second at most. To be asked before Abort.
  virtual std::string HangEvidence() { return ""; }
  // Ends every process of the job now; for a failure that other ranks cannot see.
  [[noreturn]] virtual void Abort(int exit_code) = 0;

 protected:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::string host_;
  CollectiveLog log_;
  SharedDeadline deadline_{std::chrono::milliseconds(0)};
};

}  // namespace muster::parallel
