#pragma once
// A process group is a set of ranks with a communicator of its own: usually the ranks along one
// mesh axis. A group of one is legal and free. Made by World (parallel/comm/rendezvous.h) before
// the model takes memory; owned by the mesh; passed by const reference to the collectives. One
// group must not be used from two streams at a time.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/time_category.h"

namespace muster::parallel {

class ProcessGroup {
 public:
  // `communicator` may be null for a group of one, and for one whose ranks exchange nothing: a call
  // on that fails. `world_ranks` in group order.
  ProcessGroup(std::string name, std::vector<int> world_ranks, int rank, TimeCategory category,
               std::unique_ptr<Communicator> communicator, CollectiveLog* log)
      : name_(std::move(name)),
        world_ranks_(std::move(world_ranks)),
        rank_(rank),
        category_(category),
        communicator_(std::move(communicator)),
        log_(log) {
    if (size() > 1 && communicator_ != nullptr) log_->AddGroup({name_, world_ranks_});
  }

  const std::string& name() const { return name_; }
  int rank() const { return rank_; }  // of this process, within the group
  int size() const { return static_cast<int>(world_ranks_.size()); }
  const std::vector<int>& world_ranks() const { return world_ranks_; }
  // What the compute stream's time in a collective of this group is called.
  TimeCategory time_category() const { return category_; }

  // For parallel/comm/collectives.cc.
  bool has_communicator() const { return communicator_ != nullptr; }
  Communicator& communicator() const { return *communicator_; }
  CollectiveLog& log() const { return *log_; }
  // Counts the calls that all ranks make together; a send or a receive, which only two ranks make,
  // has the number of the collective that comes next.
  uint64_t sequence() const { return sequence_.load(std::memory_order_relaxed); }
  uint64_t NextSequence() const { return sequence_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::string name_;
  std::vector<int> world_ranks_;
  int rank_;
  TimeCategory category_;
  std::unique_ptr<Communicator> communicator_;
  CollectiveLog* log_;
  mutable std::atomic<uint64_t> sequence_{0};
};

}  // namespace muster::parallel
