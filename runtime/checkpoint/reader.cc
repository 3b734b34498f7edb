#include "runtime/checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxManifestBytes = size_t{1} << 30;

absl::StatusOr<MappedFile> MapPlainFile(const std::string& path) {
  std::error_code error;
  if (fs::is_symlink(fs::symlink_status(path, error))) {
    return absl::DataLossError(path + " is a symlink, which is not followed");
  }
  return MappedFile::Open(path);
}

std::string Differs(uint64_t wanted, uint64_t found) {
  return "wanted hash " + kernels::HexDigits(wanted) + ", found " + kernels::HexDigits(found);
}

}  // namespace

absl::StatusOr<Manifest> ReadManifest(const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  ASSIGN_OR_RETURN(const MappedFile file, MapPlainFile(path));
  if (file.size() > kMaxManifestBytes) {
    return absl::DataLossError(path + " is larger than any manifest");
  }
  return ParseManifest(std::string(file.bytes()), path);
}

absl::Status CheckCoverage(const Manifest& manifest) {
  std::map<std::string, std::vector<ElementRun>> runs;
  for (const StoredShard& shard : manifest.shards) {
    for (const StoredPiece& piece : shard.pieces) {
      std::vector<ElementRun>& of_tensor = runs[piece.tensor];
      const std::vector<ElementRun> more = RunsOf(piece.range);
      of_tensor.insert(of_tensor.end(), more.begin(), more.end());
    }
  }
  for (const auto& [name, tensor] : manifest.tensors) {
    std::vector<ElementRun>& of_tensor = runs[name];
    std::sort(of_tensor.begin(), of_tensor.end(),
              [](const ElementRun& a, const ElementRun& b) { return a.global < b.global; });
    int64_t covered = 0;
    const auto broken = [&, &name = name](const char* by) {
      return absl::DataLossError("tensor " + name + ": element " + std::to_string(covered) +
                                 " is stored by " + by + " shard");
    };
    for (const ElementRun& run : of_tensor) {
      if (run.global > covered) return broken("no");
      if (run.global < covered) return broken("more than one");
      covered += run.count;
    }
    if (covered != tensor.shape.num_elements()) return broken("no");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Map(
    const std::string& directory, const std::string& manifest_name) {
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(directory, error))) {
    return absl::DataLossError(directory + " is no directory (symlinks are not followed)");
  }
  std::unique_ptr<CheckpointReader> reader(new CheckpointReader);
  reader->directory_ = directory;
  absl::StatusOr<Manifest> manifest = ReadManifest(directory, manifest_name);
  if (!manifest.ok()) return absl::DataLossError(manifest.status().message());
  reader->manifest_ = *std::move(manifest);
  for (const StoredShard& shard : reader->manifest_.shards) {
    RETURN_IF_ERROR(reader->MapShard(shard));
  }
  return reader;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(
    const std::string& directory) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader, Map(directory, kManifestName));
  const int64_t step = StepOfName(fs::path(directory).filename().string());
  if (step >= 0 && step != reader->manifest_.facts.step) {
    return absl::DataLossError(directory + "/" + kManifestName + " is of step " +
                               std::to_string(reader->manifest_.facts.step));
  }
  RETURN_IF_ERROR(
      kernels::Annotate(CheckCoverage(reader->manifest_), directory + "/" + kManifestName));
  reader->IndexRuns();
  return reader;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::OpenPart(
    const std::string& directory, const std::string& record) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader, Map(directory, record));
  if (reader->manifest_.shards.size() != 1) {
    return absl::DataLossError(directory + "/" + record + ": wanted one shard, found " +
                               std::to_string(reader->manifest_.shards.size()));
  }
  reader->IndexRuns();
  return reader;
}

absl::Status CheckpointReader::MapShard(const StoredShard& shard) {
  const std::string path = directory_ + "/" + shard.file;
  absl::StatusOr<MappedFile> file = MapPlainFile(path);
  if (!file.ok()) {
    const std::string first = shard.pieces.empty() ? "nothing" : shard.pieces.front().tensor;
    return absl::DataLossError(std::string(file.status().message()) + "; it holds tensor " + first +
                               " and " + std::to_string(shard.pieces.size()) + " pieces in all");
  }
  const int64_t found = static_cast<int64_t>(file->size());
  if (found != shard.bytes) {
    std::string cut = "no tensor";
    for (auto piece = shard.pieces.rbegin(); piece != shard.pieces.rend(); ++piece) {
      if (piece->offset +
              piece->range.count * kernels::SizeOf(manifest_.tensors.at(piece->tensor).dtype) >
          found) {
        cut = "tensor " + piece->tensor;
      }
    }
    return absl::DataLossError(path + ": wanted " + std::to_string(shard.bytes) + " bytes, found " +
                               std::to_string(found) + "; " + cut + " is the first that is cut");
  }
  shards_.push_back(*std::move(file));
  return absl::OkStatus();
}

void CheckpointReader::IndexRuns() {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const std::vector<StoredPiece>& stored = manifest_.shards[s].pieces;
    first_piece_.push_back(pieces_.size());
    for (size_t i = 0; i < stored.size(); ++i) {
      const StoredPiece& piece = stored[i];
      const int64_t size = kernels::SizeOf(manifest_.tensors.at(piece.tensor).dtype);
      for (const ElementRun& run : RunsOf(piece.range)) {
        runs_[piece.tensor].push_back({run.global, run.count,
                                       shards_[s].data() + piece.offset + run.local * size,
                                       pieces_.size()});
      }
      pieces_.push_back({static_cast<int>(s), static_cast<int>(i)});
    }
  }
  for (auto& [name, runs] : runs_) {
    std::sort(runs.begin(), runs.end(),
              [](const StoredRun& a, const StoredRun& b) { return a.global < b.global; });
  }
}

absl::Status CheckpointReader::VerifyPiece(size_t piece) {
  if (pieces_[piece].verified) return absl::OkStatus();
  const size_t shard = static_cast<size_t>(pieces_[piece].shard);
  const StoredPiece& stored =
      manifest_.shards[shard].pieces[static_cast<size_t>(pieces_[piece].index)];
  const int64_t size = kernels::SizeOf(manifest_.tensors.at(stored.tensor).dtype);
  const uint64_t found = kernels::Hash64(shards_[shard].data() + stored.offset,
                                         static_cast<size_t>(stored.range.count * size));
  if (found != stored.hash) {
    return absl::DataLossError(directory_ + "/" + manifest_.shards[shard].file + ": tensor " +
                               stored.tensor + " is damaged: " + Differs(stored.hash, found));
  }
  pieces_[piece].verified = true;
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyShard(int index) {
  const size_t shard = static_cast<size_t>(index);
  const StoredShard& stored = manifest_.shards[shard];
  const uint64_t header =
      kernels::Hash64(shards_[shard].data(), static_cast<size_t>(stored.header_bytes));
  if (header != stored.header_hash) {
    return absl::DataLossError(directory_ + "/" + stored.file +
                               ": its header, which names tensor " +
                               (stored.pieces.empty() ? "" : stored.pieces.front().tensor) +
                               " and others, is damaged: " + Differs(stored.header_hash, header));
  }
  for (size_t i = 0; i < stored.pieces.size(); ++i) {
    RETURN_IF_ERROR(VerifyPiece(first_piece_[shard] + i));
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyAll() {
  for (int shard = 0; shard < num_shards(); ++shard) RETURN_IF_ERROR(VerifyShard(shard));
  return absl::OkStatus();
}

template <typename Visit>
absl::Status CheckpointReader::ForEachPart(const std::string& tensor, const LogicalRange& range,
                                           const Visit& visit) const {
  const auto found = runs_.find(tensor);
  if (found == runs_.end()) return absl::OkStatus();  // of no elements
  const std::vector<StoredRun>& stored = found->second;
  for (const ElementRun& wanted : RunsOf(range)) {
    // The last stored run that begins at or before it; they tile the tensor.
    auto run = std::prev(std::upper_bound(
        stored.begin(), stored.end(), wanted.global,
        [](int64_t global, const StoredRun& each) { return global < each.global; }));
    for (int64_t done = 0; done < wanted.count; ++run) {
      const int64_t within = wanted.global + done - run->global;
      const int64_t count = std::min(run->count - within, wanted.count - done);
      RETURN_IF_ERROR(visit(*run, within, wanted.local + done, count));
      done += count;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::Verify(const std::string& tensor, kernels::DType dtype,
                                      const LogicalRange& range) {
  const auto stored = manifest_.tensors.find(tensor);
  if (stored == manifest_.tensors.end()) {
    return absl::FailedPreconditionError("tensor " + tensor + " is not in " + directory_ +
                                         ": it was saved by another model");
  }
  if (stored->second.dtype != dtype || !(stored->second.shape == range.global_shape)) {
    return absl::FailedPreconditionError(
        "tensor " + tensor + " of " + directory_ + " does not fit: wanted " + kernels::Name(dtype) +
        range.global_shape.ToString() + ", found " + kernels::Name(stored->second.dtype) +
        stored->second.shape.ToString());
  }
  return ForEachPart(tensor, range, [&](const StoredRun& run, int64_t, int64_t, int64_t) {
    return VerifyPiece(run.piece);
  });
}

void CheckpointReader::Read(const std::string& tensor, const LogicalRange& range, void* out) const {
  const int64_t size = kernels::SizeOf(manifest_.tensors.at(tensor).dtype);
  char* bytes = static_cast<char*>(out);
  MUSTER_CHECK_OK(ForEachPart(
      tensor, range, [&](const StoredRun& run, int64_t within, int64_t to, int64_t count) {
        MUSTER_CHECK(pieces_[run.piece].verified) << tensor << " is read before it is verified";
        std::memcpy(bytes + to * size, run.data + within * size, static_cast<size_t>(count * size));
        return absl::OkStatus();
      }));
}

}  // namespace muster::runtime
