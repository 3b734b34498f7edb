#include "runtime/checkpoint/writer.h"

#include <cstdio>
#include <map>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/checkpoint/finite.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/safetensors.h"

namespace muster::runtime {
namespace {

// What other safetensors readers see: the tensor itself if the piece is all of it, else a list.
std::vector<int64_t> StoredShape(const LogicalRange& range) {
  if (range.count != range.global_shape.num_elements()) return {range.count};
  std::vector<int64_t> dims;
  for (int dim = 0; dim < range.global_shape.rank(); ++dim) dims.push_back(range.global_shape[dim]);
  return dims;
}

absl::Status CheckFinite(const HostPiece& piece) {
  const auto bad = FirstNonFinite(piece.data, piece.dtype, piece.range.count);
  if (!bad) return absl::OkStatus();
  return absl::OutOfRangeError("element " + std::to_string(*bad) + " of this rank's part of " +
                               piece.tensor + " is not finite: such a state is never saved");
}

size_t Bytes(const HostPiece& piece) {
  return static_cast<size_t>(piece.range.count * kernels::SizeOf(piece.dtype));
}

}  // namespace

std::string ShardName(int rank, int num_ranks) {
  char name[64];
  std::snprintf(name, sizeof(name), "shard-%05d-of-%05d.safetensors", rank, num_ranks);
  return name;
}

std::string RecordName(int rank) { return "record-" + std::to_string(rank) + ".json"; }

absl::StatusOr<Manifest> WriteShard(const Disk& disk, const std::string& directory,
                                    const std::string& file, const CheckpointFacts& facts,
                                    const std::vector<HostPiece>& pieces) {
  std::map<std::string, SafetensorsEntry> entries;
  std::map<std::string, const HostPiece*> by_name;  // in the file's order
  for (const HostPiece& piece : pieces) {
    RETURN_IF_ERROR(CheckFinite(piece));
    // A rank holds several pieces of a fused tensor that is cut by segments: "a", "a#1", "a#2".
    std::string name = piece.tensor;
    for (int i = 1; !by_name.emplace(name, &piece).second; ++i) {
      name = piece.tensor + "#" + std::to_string(i);
    }
    entries[name] = {piece.dtype, StoredShape(piece.range), piece.data,
                     static_cast<int64_t>(Bytes(piece))};
  }
  const std::string header = SafetensorsHeader(entries, {{"format", "muster"}});

  Manifest part{.facts = facts};
  StoredShard shard{.file = file,
                    .header_bytes = static_cast<int64_t>(header.size()),
                    .header_hash = kernels::Hash64(header)};
  std::vector<ByteSpan> content = {{header.data(), header.size()}};
  int64_t offset = shard.header_bytes;
  for (const auto& [name, piece] : by_name) {
    part.tensors[piece->tensor] = {piece->dtype, piece->range.global_shape};
    shard.pieces.push_back(
        {piece->tensor, piece->range, offset, kernels::Hash64(piece->data, Bytes(*piece))});
    content.push_back({piece->data, Bytes(*piece)});
    offset += static_cast<int64_t>(Bytes(*piece));
  }
  shard.bytes = offset;
  part.shards.push_back(std::move(shard));
  RETURN_IF_ERROR(disk.WriteNew(directory + "/" + file, content));
  return part;
}

absl::Status WriteRecord(const Disk& disk, const std::string& directory, int rank,
                         const Manifest& part) {
  const std::string path = directory + "/" + RecordName(rank);
  RETURN_IF_ERROR(disk.SyncDirectory(directory));  // the shard's name
  RETURN_IF_ERROR(WriteManifest(disk, path + ".part", part));
  return disk.Rename(path + ".part", path);
}

absl::Status WriteManifest(const Disk& disk, const std::string& path, const Manifest& manifest) {
  const std::string text = ManifestText(manifest);
  RETURN_IF_ERROR(kernels::Annotate(CheckManifestBytes(text.size()), "cannot write " + path));
  return disk.WriteNew(path, {{text.data(), text.size()}});
}

absl::StatusOr<Manifest> CommitCheckpoint(const Disk& disk, const std::string& parent,
                                          const std::string& temporary, int num_ranks,
                                          const std::function<absl::Status()>& fence) {
  const std::string directory = parent + "/" + temporary;
  Manifest whole;
  for (int rank = 0; rank < num_ranks; ++rank) {
    ASSIGN_OR_RETURN(const Manifest part, ReadManifest(directory, RecordName(rank)));
    if (rank == 0) whole.facts = part.facts;
    RETURN_IF_ERROR(Merge(part, &whole));
  }
  RETURN_IF_ERROR(CheckCoverage(whole));
  for (int rank = 0; rank < num_ranks; ++rank) {
    RETURN_IF_ERROR(disk.RemoveFile(directory + "/" + RecordName(rank)));
  }
  RETURN_IF_ERROR(WriteManifest(disk, directory + "/" + kManifestName, whole));
  RETURN_IF_ERROR(fence());
  RETURN_IF_ERROR(Publish(disk, parent, temporary, CheckpointName(whole.facts.step)));
  return whole;
}

}  // namespace muster::runtime
