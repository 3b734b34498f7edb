#pragma once
// One rank's place in the memory tier: a directory of its host in a file system that lives in
// memory, <root>/muster-<key>/<host>, and a process group to agree by and to send copies over.
//
// The key is 128 random bits, drawn once for a run and kept in <run>/memory.key (mode 0600), so
// that nobody can lay the directory out before the run does; a directory of another owner, or one
// that others may enter, is refused all the same. Files outlive their processes, not their host.
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/comm/process_group.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/checkpoint/commit.h"
#include "runtime/checkpoint/memory_hosts.h"

namespace muster::runtime {

struct MemorySiteOptions {
  std::string run_directory;
  std::string root = "/dev/shm";
  int attempt = 0;
  int test_hosts = 0;                       // > 0: as if the ranks were on so many hosts, in blocks
  std::function<absl::Status()> fence;      // see DiskStoreOptions
  DiskHook hook;                            // tests, planned faults
  int64_t chunk_bytes = int64_t{16} << 20;  // of one message between hosts
};

class MemorySite {
 public:
  // Collective. Makes the directories and clears what saves of earlier attempts have left in them.
  // Errors, equal on all ranks: the root is not there or is full; a directory is not ours alone.
  static absl::StatusOr<std::unique_ptr<MemorySite>> Open(const MemorySiteOptions& options,
                                                          parallel::World& world);

  const std::string& directory() const { return directory_; }  // of this host
  const HostMap& hosts() const { return hosts_; }
  int host() const { return hosts_.host_of[static_cast<size_t>(rank())]; }
  bool leads() const { return hosts_.leader(host()) == rank(); }
  int keeper() const { return keeper_; }                    // of this rank's copy; -1: none
  const std::vector<int>& wards() const { return wards_; }  // whose copies this rank keeps
  int rank() const { return world_.rank(); }
  parallel::World& world() const { return world_; }
  const Disk& disk() const { return disk_; }
  const MemorySiteOptions& options() const { return options_; }

  // Collective, over the site's own group, so from any one thread of each rank. Errors: the
  // group's, and none of it can be used again.
  absl::StatusOr<bool> AllOk(bool mine);
  using Pair = std::array<int64_t, 2>;
  absl::StatusOr<std::vector<Pair>> Gather(Pair mine);
  absl::Status Broadcast(char* data, int64_t bytes, int root);
  // One message to each keeper: `in` to this rank's, [bytes of each ward] one after the other from
  // them.
  absl::Status PassOn(const char* in, int64_t in_bytes, char* out,
                      const std::vector<int64_t>& ward_bytes);

  // Collective: whether this host has room for two snapshots of its ranks and their wards, of which
  // this rank's takes `shard_bytes`. Errors, equal on all ranks: ResourceExhausted, in numbers.
  absl::Status CheckRoom(int64_t shard_bytes);
  // Bytes that can still be written there.
  absl::StatusOr<int64_t> FreeBytes() const;

  // Collective. Removes the directories of all hosts and the key: the run needs them no more.
  absl::Status Remove();

 private:
  MemorySite(MemorySiteOptions options, parallel::World& world)
      : options_(std::move(options)), world_(world), disk_(options_.hook) {}
  absl::Status MakeDirectories(const std::string& key);
  kernels::TensorView Bytes(const char* data, int64_t bytes) const;

  const MemorySiteOptions options_;
  parallel::World& world_;
  const Disk disk_;
  std::string top_, directory_;
  HostMap hosts_;
  int keeper_ = -1;
  std::vector<int> wards_;
  std::unique_ptr<kernels::Stream> stream_;  // runs each collective in its caller
  std::unique_ptr<parallel::ProcessGroup> everyone_;
};

}  // namespace muster::runtime
