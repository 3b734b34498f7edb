#include "parallel/comm/planned_world.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

class PlannedCommunicator final : public Communicator {
 public:
  absl::Status AllReduce(TensorView, ReduceOp, CollectiveCall call, StreamView) override {
    return Refuse(call);
  }
  absl::Status ReduceScatter(TensorView, TensorView, ReduceOp, CollectiveCall call,
                             StreamView) override {
    return Refuse(call);
  }
  absl::Status AllGather(TensorView, TensorView, CollectiveCall call, StreamView) override {
    return Refuse(call);
  }
  absl::Status AllToAll(TensorView, TensorView, TensorView, TensorView, CollectiveCall call,
                        StreamView) override {
    return Refuse(call);
  }
  absl::Status AllToAllEqual(TensorView, TensorView, CollectiveCall call, StreamView) override {
    return Refuse(call);
  }
  absl::Status Shift(TensorView, TensorView, int, CollectiveCall call, StreamView) override {
    return Refuse(call);
  }
  absl::Status Broadcast(TensorView, int, CollectiveCall call, StreamView) override {
    return Refuse(call);
  }
  absl::Status Send(TensorView, int, CollectiveCall call, StreamView) override {
    return Opened(call);
  }
  absl::Status Receive(TensorView, int, CollectiveCall call, StreamView) override {
    return Opened(call);
  }
  absl::Status Barrier(CollectiveCall call, StreamView) override { return Opened(call); }

 private:
  static absl::Status Refuse(const CollectiveCall& call) {
    return absl::FailedPreconditionError(call.what + " was called on a rank that is only planned");
  }
  static absl::Status Opened(const CollectiveCall& call) {
    call.log->Started(call.id);
    call.log->Done(call.id, /*ok=*/true);
    return absl::OkStatus();
  }
};

class PlannedWorld final : public World {
 public:
  PlannedWorld(int rank, int size) {
    MUSTER_CHECK(rank >= 0 && rank < size) << "rank " << rank << " of " << size;
    rank_ = rank;
    size_ = size;
  }
  absl::StatusOr<std::unique_ptr<ProcessGroup>> NewGroup(std::string name,
                                                         std::vector<int> world_ranks,
                                                         TimeCategory category,
                                                         kernels::Device) override {
    const auto self = std::find(world_ranks.begin(), world_ranks.end(), rank_);
    MUSTER_CHECK(self != world_ranks.end()) << "group " << name << " without rank " << rank_;
    const auto rank = static_cast<int>(self - world_ranks.begin());
    return std::make_unique<ProcessGroup>(std::move(name), std::move(world_ranks), rank, category,
                                          std::make_unique<PlannedCommunicator>(), &log_);
  }
  absl::StatusOr<std::vector<std::string>> GatherText(const std::string&) override {
    return absl::FailedPreconditionError("a rank that is only planned has nobody to ask");
  }
  [[noreturn]] void Abort(int exit_code) override { _exit(exit_code); }
};

}  // namespace

std::unique_ptr<World> MakePlannedWorld(int rank, int size) {
  return std::make_unique<PlannedWorld>(rank, size);
}

}  // namespace muster::parallel
