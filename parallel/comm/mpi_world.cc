#include "parallel/comm/mpi_world.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "parallel/comm/hang_listener.h"
#include "parallel/comm/mpi_backend.h"
#include "parallel/comm/mpi_exchange.h"
#include "parallel/comm/watchdog.h"
#ifdef MUSTER_WITH_CUDA
#include "parallel/comm/nccl_backend.h"
#endif

namespace muster::parallel {
namespace {

// Of messages between worlds' ranks that belong to no group.
constexpr int kGatherTag = 1, kGroupTag = 2;

absl::Status MpiStatus(int code, const std::string& what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(what +
                                " failed: " + std::string(text, static_cast<size_t>(length)));
}

// What the launcher said of this process, against what MPI found.
absl::Status ConfirmLauncher(int rank, int size) {
  const struct {
    const char* variable;
    int found;
  } facts[] = {{"OMPI_COMM_WORLD_SIZE", size},
               {"OMPI_COMM_WORLD_RANK", rank},
               {"PMI_SIZE", size},
               {"PMI_RANK", rank},
               {"PMIX_RANK", rank}};
  for (const auto& fact : facts) {
    const char* text = std::getenv(fact.variable);
    if (text == nullptr || std::atoi(text) == fact.found) continue;
    return absl::FailedPreconditionError(
        std::string("the launcher says ") + fact.variable + "=" + text + ", but MPI found rank " +
        std::to_string(rank) + " of " + std::to_string(size) +
        ": the launcher and this program's MPI library do not speak the same protocol; start with "
        "the mpirun of that library, or with `srun --mpi=pmix`");
  }
  return absl::OkStatus();
}

// Starts MPI unless it runs already; `*started` says which.
absl::Status StartMpi(bool* started) {
  int finalized = 0, initialized = 0, level = MPI_THREAD_SINGLE;
  MPI_Finalized(&finalized);
  if (finalized) {
    return absl::FailedPreconditionError("MPI was stopped already; one process is one run");
  }
  MPI_Initialized(&initialized);
  *started = !initialized;
  if (initialized) {
    RETURN_IF_ERROR(MpiStatus(MPI_Query_thread(&level), "MPI_Query_thread"));
  } else {
    RETURN_IF_ERROR(MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level),
                              "MPI_Init_thread"));
  }
  if (level == MPI_THREAD_MULTIPLE) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this MPI grants thread level " + std::to_string(level) + ", wanted MPI_THREAD_MULTIPLE (" +
      std::to_string(MPI_THREAD_MULTIPLE) +
      "): communication threads need it; use an MPI built with it");
}

class MpiWorld final : public World {
 public:
  static absl::StatusOr<std::unique_ptr<World>> Make(const WorldOptions& options);
  ~MpiWorld() override;
  absl::StatusOr<std::unique_ptr<ProcessGroup>> NewGroup(std::string name,
                                                         std::vector<int> world_ranks,
                                                         TimeCategory category,
                                                         kernels::Device device) override;
  absl::StatusOr<std::vector<std::string>> GatherText(const std::string& text) override;
  void KeepHangEvidence(const std::string& directory) override;
  std::string HangEvidence() override { return listener_ == nullptr ? "" : listener_->Evidence(); }
  [[noreturn]] void Abort(int exit_code) override;

 private:
  explicit MpiWorld(const WorldOptions& options)
      : options_(options), background_deadline_(options.background_deadline) {
    deadline_ = options.deadline;
  }
  absl::Status Learn();
  struct GroupPlan {
    std::string name;
    std::vector<int> world_ranks;
    int rank;  // of this process in the group
    TimeCategory category;
    kernels::Device device;
  };
  absl::Status Meet(const GroupPlan& plan);
  absl::StatusOr<MpiHandle> Split(const std::vector<int>& world_ranks);
  absl::StatusOr<std::unique_ptr<Communicator>> MakeCommunicator(const GroupPlan& plan);
  absl::StatusOr<std::unique_ptr<Communicator>> MakeGpuCommunicator(const GroupPlan& plan);
  MpiExchange::Clock::time_point Deadline() const { return MpiExchange::Clock::now() + deadline(); }

  const WorldOptions options_;
  const SharedDeadline background_deadline_;
  bool owns_mpi_ = false;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  std::unique_ptr<MpiExchange> exchange_;
  std::atomic<bool> failed_{false};
  std::unique_ptr<Watchdog> watchdog_;  // of groups on GPUs
  std::unique_ptr<HangListener> listener_;
};

absl::StatusOr<std::unique_ptr<World>> MpiWorld::Make(const WorldOptions& options) {
  std::unique_ptr<MpiWorld> world(new MpiWorld(options));
  RETURN_IF_ERROR(StartMpi(&world->owns_mpi_));
  RETURN_IF_ERROR(world->Learn());
  kernels::SetLogRank(world->rank_);
  return world;
}

absl::Status MpiWorld::Learn() {
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
                            "MPI_Comm_set_errhandler"));
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  RETURN_IF_ERROR(ConfirmLauncher(rank_, size_));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_), "MPI_Comm_dup"));
  MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);

  MPI_Comm on_host = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Comm_split_type(communicator_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &on_host),
      "MPI_Comm_split_type"));
  MPI_Comm_rank(on_host, &local_rank_);
  MPI_Comm_size(on_host, &local_size_);
  MPI_Comm_free(&on_host);
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  host_ = name;

  std::vector<int> all(static_cast<size_t>(size_));
  for (int rank = 0; rank < size_; ++rank) all[static_cast<size_t>(rank)] = rank;
  exchange_ = std::make_unique<MpiExchange>(MPI_Comm_c2f(communicator_), std::move(all));
  return absl::OkStatus();
}

MpiWorld::~MpiWorld() {
  listener_.reset();
  exchange_.reset();
  if (failed_) {
    // MPI_Finalize waits for all ranks, and one of them may never come.
    if (owns_mpi_) {
      kernels::Log(kernels::Severity::kWarning, "a collective failed, so MPI is not finalized");
    }
    return;
  }
  if (communicator_ != MPI_COMM_NULL) MPI_Comm_free(&communicator_);
  if (owns_mpi_) MPI_Finalize();
}

// All ranks of a group say which one they are about to make, before MPI or NCCL makes it: MPI's own
// call has no deadline.
absl::Status MpiWorld::Meet(const GroupPlan& plan) {
  const std::vector<int>& world_ranks = plan.world_ranks;
  uint64_t own = kernels::Hash64(plan.name);
  own = kernels::Hash64(world_ranks.data(), world_ranks.size() * sizeof(int), own);
  own = kernels::Hash64(&plan.device.type, sizeof(plan.device.type), own);
  std::vector<uint64_t> theirs(world_ranks.size(), own);
  const auto what = [&] {
    return "making group " + plan.name + " of " + std::to_string(world_ranks.size()) +
           " ranks on world rank " + std::to_string(rank_);
  };
  exchange_->Begin(kGroupTag, Deadline());
  for (size_t i = 0; i < world_ranks.size(); ++i) {
    if (world_ranks[i] == rank_) continue;
    exchange_->Receive(world_ranks[i], &theirs[i], sizeof(uint64_t));
    exchange_->Send(world_ranks[i], &own, sizeof(uint64_t));
  }
  RETURN_IF_ERROR(kernels::Annotate(exchange_->Wait(), what()));
  for (size_t i = 0; i < world_ranks.size(); ++i) {
    if (theirs[i] == own) continue;
    return absl::FailedPreconditionError(what() + ": world rank " + std::to_string(world_ranks[i]) +
                                         " is making another group; all ranks must make the same "
                                         "groups in the same order");
  }
  return absl::OkStatus();
}

absl::StatusOr<MpiHandle> MpiWorld::Split(const std::vector<int>& world_ranks) {
  MPI_Group all = MPI_GROUP_NULL, chosen = MPI_GROUP_NULL;
  MPI_Comm communicator = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_group(communicator_, &all), "MPI_Comm_group"));
  RETURN_IF_ERROR(MpiStatus(
      MPI_Group_incl(all, static_cast<int>(world_ranks.size()), world_ranks.data(), &chosen),
      "MPI_Group_incl"));
  const int code = MPI_Comm_create_group(communicator_, chosen, kGroupTag, &communicator);
  MPI_Group_free(&chosen);
  MPI_Group_free(&all);
  RETURN_IF_ERROR(MpiStatus(code, "MPI_Comm_create_group"));
  MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN);
  return MPI_Comm_c2f(communicator);
}

absl::StatusOr<std::unique_ptr<ProcessGroup>> MpiWorld::NewGroup(std::string name,
                                                                 std::vector<int> world_ranks,
                                                                 TimeCategory category,
                                                                 kernels::Device device) {
  const auto self = std::find(world_ranks.begin(), world_ranks.end(), rank_);
  MUSTER_CHECK(self != world_ranks.end() &&
               std::adjacent_find(world_ranks.begin(), world_ranks.end(),
                                  std::greater_equal<int>()) == world_ranks.end() &&
               world_ranks.front() >= 0 && world_ranks.back() < size_)
      << "ranks of group " << name << " on world rank " << rank_;
  const GroupPlan plan{name, world_ranks, static_cast<int>(self - world_ranks.begin()), category,
                       device};
  std::unique_ptr<Communicator> communicator;
  if (world_ranks.size() > 1) {
    const bool on_cpu = device.type == kernels::DeviceType::kCpu;
    auto made = on_cpu ? MakeCommunicator(plan) : MakeGpuCommunicator(plan);
    if (!made.ok()) failed_ = true;
    ASSIGN_OR_RETURN(communicator, std::move(made));
  }
  return std::make_unique<ProcessGroup>(std::move(name), std::move(world_ranks), plan.rank,
                                        category, std::move(communicator), &log_);
}

absl::StatusOr<std::unique_ptr<Communicator>> MpiWorld::MakeCommunicator(const GroupPlan& plan) {
  RETURN_IF_ERROR(Meet(plan));
  ASSIGN_OR_RETURN(const MpiHandle handle, Split(plan.world_ranks));
  return MakeMpiCommunicator(
      {.communicator = handle,
       .world_ranks = plan.world_ranks,
       .rank = plan.rank,
       .deadline = plan.category == kCheckpoint ? &background_deadline_ : &deadline_,
       .injected_link = options_.injected_link,
       .world_failed = &failed_});
}

#ifdef MUSTER_WITH_CUDA
// Each group gets a communicator of its own making. Splitting one from a communicator of the world
// would need every rank of the world to come, and only the group's ranks do.
absl::StatusOr<std::unique_ptr<Communicator>> MpiWorld::MakeGpuCommunicator(const GroupPlan& plan) {
  RETURN_IF_ERROR(PrepareNccl(plan.device, options_.nccl));
  RETURN_IF_ERROR(Meet(plan));
  std::string id(kNcclIdBytes, '\0');
  if (plan.rank == 0) {
    ASSIGN_OR_RETURN(id, NewNcclId());
  }
  exchange_->Begin(kGroupTag, Deadline());
  for (size_t i = 1; i < plan.world_ranks.size() && plan.rank == 0; ++i) {
    exchange_->Send(plan.world_ranks[i], id.data(), kNcclIdBytes);
  }
  if (plan.rank != 0) exchange_->Receive(plan.world_ranks[0], id.data(), kNcclIdBytes);
  RETURN_IF_ERROR(kernels::Annotate(exchange_->Wait(), "sharing the NCCL id of " + plan.name));
  if (watchdog_ == nullptr) watchdog_ = std::make_unique<Watchdog>();
  NcclOptions nccl = options_.nccl;
  if (plan.category == kExposedDp && nccl.overlapped_max_ctas > 0) {
    nccl.max_ctas = nccl.overlapped_max_ctas;
  }
  if (plan.category != kExposedDp && nccl.cta_policy == NcclOptions::CtaPolicy::kZero) {
    nccl.cta_policy = NcclOptions::CtaPolicy::kDefault;
  }
  return MakeNcclCommunicator({.unique_id = id,
                               .name = plan.name,
                               .host = host_,
                               .world_ranks = plan.world_ranks,
                               .rank = plan.rank,
                               .device = plan.device,
                               .deadline = &deadline_,
                               .nccl = nccl,
                               .world_failed = &failed_,
                               .watchdog = watchdog_.get()});
}
#else
absl::StatusOr<std::unique_ptr<Communicator>> MpiWorld::MakeGpuCommunicator(const GroupPlan& plan) {
  return absl::FailedPreconditionError("group " + plan.name + " on " + kernels::Name(plan.device) +
                                       ": this binary was built without CUDA; build with `cmake "
                                       "--preset gpu`, or set device: CPU");
}
#endif

absl::StatusOr<std::vector<std::string>> MpiWorld::GatherText(const std::string& text) {
  const auto deadline = Deadline();
  struct Gathering {
    std::string own;
    int64_t own_size;
    std::vector<int64_t> sizes;
    std::vector<std::string> texts;
  };
  const auto n = static_cast<size_t>(size_);
  const auto own_size = static_cast<int64_t>(text.size());
  std::unique_ptr<Gathering> gathering(new Gathering{
      text, own_size, std::vector<int64_t>(n, own_size), std::vector<std::string>(n, text)});
  Gathering& g = *gathering;
  const auto exchange = [&](auto post) -> absl::Status {
    exchange_->Begin(kGatherTag, deadline);
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) post(peer, static_cast<size_t>(peer));
    }
    const absl::Status status = exchange_->Wait();
    if (!status.ok()) {
      failed_ = true;
      (void)gathering.release();  // MPI may still write there
    }
    return kernels::Annotate(status, "gathering text on world rank " + std::to_string(rank_));
  };
  RETURN_IF_ERROR(exchange([&](int peer, size_t i) {
    exchange_->Receive(peer, &g.sizes[i], sizeof(int64_t));
    exchange_->Send(peer, &g.own_size, sizeof(int64_t));
  }));
  RETURN_IF_ERROR(exchange([&](int peer, size_t i) {
    g.texts[i].resize(static_cast<size_t>(g.sizes[i]));
    exchange_->Receive(peer, g.texts[i].data(), g.sizes[i]);
    exchange_->Send(peer, g.own.data(), g.own_size);
  }));
  return std::move(g.texts);
}

void MpiWorld::KeepHangEvidence(const std::string& directory) {
  listener_ = std::make_unique<HangListener>(
      HangListener::Options{.communicator = MPI_Comm_c2f(communicator_),
                            .rank = rank_,
                            .world_size = size_,
                            .host = host_,
                            .deadline = &deadline_,
                            .directory = directory,
                            .log = &log_,
                            .world_failed = &failed_,
                            .abort = [this] { Abort(1); }});
}

void MpiWorld::Abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

}  // namespace

absl::StatusOr<std::unique_ptr<World>> MakeMpiWorld(const WorldOptions& options) {
  return MpiWorld::Make(options);
}

}  // namespace muster::parallel
