#pragma once
// Reduce-scatter and all-gather of one group by copy engines: each rank writes into its peers'
// memory, so nothing of it takes a multiprocessor but the sum. Needs the peers' memory in this
// process's address space (parallel/comm/peer_exchange.h).
//
// Every call is: meet, copy to each peer, meet. To meet, a rank raises its flag at every peer in
// stream order and waits for theirs. The first meeting says that the peers' memory may be
// overwritten, the second that what they sent is here. Calls are made in the same order by all
// ranks, those of groups that share staging memory on one stream of each rank.
//
// Bytes a rank sends, n ranks, B bytes of the whole tensor: (n-1)/n B. A reduce-scatter's sum moves
// (n+1)/n B of its own memory, and adds in rank order in the accumulator dtype: its bits are those
// of parallel/comm/rank_order_reduce.h, and do not depend on how a tensor is cut into calls.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

class CopyExchange {
 public:
  using TensorView = kernels::TensorView;
  using StreamView = kernels::StreamView;
  // A rank's memory at its addresses in this process.
  struct Memory {
    uint32_t* flags = nullptr;   // one for each rank of the group; begin at 0
    char* staging = nullptr;     // what its peers send it to be summed
    std::vector<char*> targets;  // where gathers write, in the order of Options::target_bytes
  };
  struct Options {
    int rank = 0;
    std::vector<Memory> ranks;  // of the group; this rank's own among them
    int64_t staging_bytes = 0;  // of every rank; reduces parts of up to staging_bytes / (n - 1)
    std::vector<int64_t> target_bytes;
    kernels::Device device;
  };

  explicit CopyExchange(Options options) : options_(std::move(options)) {}

  // out = sum over ranks of part `rank` of in. `out` may be that part itself. Errors: a part that
  // does not fit the staging memory.
  absl::Status ReduceScatter(TensorView in, TensorView out, StreamView stream);
  // Whether `out` lies in a target, at the same place on all ranks.
  bool CanGather(const TensorView& out) const { return FindTarget(out) >= 0; }
  // in of every rank, in rank order, at `out`. `in` may be its own part of out.
  absl::Status AllGather(TensorView in, TensorView out, StreamView stream);
  // Streams that wait for peers go on, whatever is there; for giving up.
  void Release();

 private:
  int size() const { return static_cast<int>(options_.ranks.size()); }
  const Memory& Of(int rank) const { return options_.ranks[static_cast<size_t>(rank)]; }
  int FindTarget(const TensorView& out) const;
  void Meet(StreamView stream);
  void Sum(TensorView own, TensorView out, StreamView stream) const;

  const Options options_;
  uint32_t meetings_ = 0;
};

}  // namespace muster::parallel
