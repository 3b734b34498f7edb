#pragma once
// Writes what one rank stores of a checkpoint: a safetensors shard, synced, and the manifest of
// that shard alone.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/commit.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {

// A piece of a logical tensor in host memory: range.count contiguous elements.
struct HostPiece {
  std::string tensor;
  kernels::DType dtype = kernels::DType::kFloat32;
  LogicalRange range;
  const void* data = nullptr;
};

// The names of rank r's shard, and of the record by which it tells rank 0 that the shard is whole.
std::string ShardName(int rank, int num_ranks);
std::string RecordName(int rank);

// Hashes the pieces where they lie, then writes <directory>/<file> and syncs it. CHECKs that no
// tensor comes twice. Errors: the disk's, no file is left then; OutOfRange, with the tensor's name,
// if an element is not finite.
absl::StatusOr<Manifest> WriteShard(const Disk& disk, const std::string& directory,
                                    const std::string& file, const CheckpointFacts& facts,
                                    const std::vector<HostPiece>& pieces);

// Writes the record of a shard so that it appears whole, after the shard: both are durable then.
absl::Status WriteRecord(const Disk& disk, const std::string& directory, int rank,
                         const Manifest& part);

// The text of a manifest as a new file. Errors: see CheckManifestBytes; the disk's.
absl::Status WriteManifest(const Disk& disk, const std::string& path, const Manifest& manifest);

// On rank 0, once all records are there: reads and removes them, writes the manifest of the whole,
// asks `fence`, and makes <parent>/<temporary> visible as the checkpoint of its step. Returns that
// manifest. Errors: the disk's; the fence's; ranks that saved different things, or not all of a
// tensor.
absl::StatusOr<Manifest> CommitCheckpoint(const Disk& disk, const std::string& parent,
                                          const std::string& temporary, int num_ranks,
                                          const std::function<absl::Status()>& fence);

}  // namespace muster::runtime
