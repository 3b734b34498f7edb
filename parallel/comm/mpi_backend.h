#pragma once
// The communicator of host memory: our own algorithms over MPI's point-to-point messages. Whoever
// runs the stream drives a call to its end, so nothing depends on MPI's progress under compute, and
// every wait has the world's deadline. After its first failure a communicator is broken: every
// later call fails at once with that first error.
//
// Bytes sent per rank, n ranks, B bytes of the whole tensor:
//   reduce-scatter, all-gather   (n-1)/n B    each part straight to its owner, from its owner
//   all-reduce                   2 (n-1)/n B  one after the other; up to kSmallAllReduceBytes
//                                (n-1) B      everybody sends all, one latency instead of two
//   all-to-all                   what the counts say, even an empty message to every peer
//   shift                        the tensor
//   broadcast                    B per child of a binomial tree; barrier: ceil(log2 n) empty ones
// Staging for arrived contributions is bounded (two windows per peer), grown once, then reused.
#include <atomic>
#include <memory>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_exchange.h"
#include "parallel/comm/rendezvous.h"

namespace muster::parallel {

struct MpiCommunicatorOptions {
  MpiHandle communicator = 0;                // owned from here on; freed unless broken
  std::vector<int> world_ranks;              // of the group, by group rank
  int rank = 0;                              // of this process in the group
  const SharedDeadline* deadline = nullptr;  // outlives the group
  InjectedLink injected_link;
  std::atomic<bool>* world_failed = nullptr;  // set at the first failure; outlives the group
};

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiCommunicatorOptions options);

}  // namespace muster::parallel
