#include "runtime/checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

// A block stays in the cache from the read to the hash; the disk works on the next ones meanwhile.
constexpr int64_t kBlockBytes = int64_t{1} << 20, kReadAheadBytes = int64_t{16} << 20;
constexpr int64_t kWindowBytes = int64_t{256} << 10;

absl::StatusOr<Manifest> ReadManifestIn(const ReadDirectory& directory, const std::string& name) {
  ASSIGN_OR_RETURN(const ReadFile file, directory.OpenFile(name));
  if (file.size() > kMaxManifestBytes) {
    return absl::DataLossError(file.path() + " is larger than any manifest");
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  RETURN_IF_ERROR(file.Read(0, text.data(), file.size()));
  return ParseManifest(text, file.path());
}

std::string Differs(uint64_t wanted, uint64_t found) {
  return "wanted hash " + kernels::HexDigits(wanted) + ", found " + kernels::HexDigits(found);
}

}  // namespace

absl::StatusOr<Manifest> ReadManifest(const std::string& directory, const std::string& name) {
  ASSIGN_OR_RETURN(const ReadDirectory opened, ReadDirectory::Open(directory));
  return ReadManifestIn(opened, name);
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

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::OpenWith(
    const std::string& directory, const std::string& manifest_name) {
  absl::StatusOr<ReadDirectory> opened = ReadDirectory::Open(directory);
  if (!opened.ok()) return absl::DataLossError(opened.status().message());
  std::unique_ptr<CheckpointReader> reader(new CheckpointReader(*std::move(opened)));
  absl::StatusOr<Manifest> manifest = ReadManifestIn(reader->directory_, manifest_name);
  if (!manifest.ok()) return absl::DataLossError(manifest.status().message());
  reader->manifest_ = *std::move(manifest);
  for (const StoredShard& shard : reader->manifest_.shards) {
    RETURN_IF_ERROR(reader->CheckShard(shard));
  }
  return reader;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(
    const std::string& directory) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader, OpenWith(directory, kManifestName));
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
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader, OpenWith(directory, record));
  if (reader->manifest_.shards.size() != 1) {
    return absl::DataLossError(directory + "/" + record + ": wanted one shard, found " +
                               std::to_string(reader->manifest_.shards.size()));
  }
  reader->IndexRuns();
  return reader;
}

absl::Status CheckpointReader::CheckShard(const StoredShard& shard) const {
  const absl::StatusOr<ReadFile> file = directory_.OpenFile(shard.file);
  if (!file.ok()) {
    const std::string first = shard.pieces.empty() ? "nothing" : shard.pieces.front().tensor;
    return absl::DataLossError(std::string(file.status().message()) + "; it holds tensor " + first +
                               " and " + std::to_string(shard.pieces.size()) + " pieces in all");
  }
  const int64_t found = file->size();
  if (found != shard.bytes) {
    std::string cut = "no tensor";
    for (auto piece = shard.pieces.rbegin(); piece != shard.pieces.rend(); ++piece) {
      if (piece->offset +
              piece->range.count * kernels::SizeOf(manifest_.tensors.at(piece->tensor).dtype) >
          found) {
        cut = "tensor " + piece->tensor;
      }
    }
    return absl::DataLossError(file->path() + ": wanted " + std::to_string(shard.bytes) +
                               " bytes, found " + std::to_string(found) + "; " + cut +
                               " is the first that is cut");
  }
  return absl::OkStatus();
}

absl::StatusOr<const ReadFile*> CheckpointReader::Shard(int index) {
  const auto found = open_.find(index);
  if (found != open_.end()) return &found->second;
  if (open_.size() == kMostOpenFiles) open_.clear();
  absl::StatusOr<ReadFile> file =
      directory_.OpenFile(manifest_.shards[static_cast<size_t>(index)].file);
  if (!file.ok()) return absl::DataLossError(file.status().message());
  return &open_.emplace(index, *std::move(file)).first->second;
}

absl::StatusOr<uint64_t> CheckpointReader::HashOf(int shard, int64_t offset, int64_t bytes) {
  ASSIGN_OR_RETURN(const ReadFile* file, Shard(shard));
  block_.resize(static_cast<size_t>(kBlockBytes));
  kernels::Hasher64 hasher;
  for (int64_t done = 0; done < bytes;) {
    if (done % kReadAheadBytes == 0) {
      file->Announce(offset + done, std::min(2 * kReadAheadBytes, bytes - done));
    }
    const int64_t part = std::min(kBlockBytes, bytes - done);
    RETURN_IF_ERROR(file->Read(offset + done, block_.data(), part));
    hasher.Update(block_.data(), static_cast<size_t>(part));
    done += part;
  }
  return hasher.Digest();
}

absl::Status CheckpointReader::ReadShard(int shard, int64_t offset, int64_t bytes, char* out) {
  if (bytes >= kWindowBytes) {
    ASSIGN_OR_RETURN(const ReadFile* file, Shard(shard));
    return file->Read(offset, out, bytes);
  }
  Window& window = windows_[static_cast<size_t>(shard) % kNumWindows];
  const int64_t end = window.begin + static_cast<int64_t>(window.bytes.size());
  if (window.shard != shard || offset < window.begin || offset + bytes > end) {
    ASSIGN_OR_RETURN(const ReadFile* file, Shard(shard));
    window.shard = -1;  // until it is filled
    window.begin = offset;
    window.bytes.resize(static_cast<size_t>(std::min(kWindowBytes, file->size() - offset)));
    RETURN_IF_ERROR(
        file->Read(offset, window.bytes.data(), static_cast<int64_t>(window.bytes.size())));
    window.shard = shard;
  }
  std::memcpy(out, window.bytes.data() + (offset - window.begin), static_cast<size_t>(bytes));
  return absl::OkStatus();
}

void CheckpointReader::IndexRuns() {
  for (size_t s = 0; s < manifest_.shards.size(); ++s) {
    const std::vector<StoredPiece>& stored = manifest_.shards[s].pieces;
    first_piece_.push_back(pieces_.size());
    for (size_t i = 0; i < stored.size(); ++i) {
      const StoredPiece& piece = stored[i];
      const int64_t size = kernels::SizeOf(manifest_.tensors.at(piece.tensor).dtype);
      for (const ElementRun& run : RunsOf(piece.range)) {
        runs_[piece.tensor].push_back(
            {run.global, run.count, piece.offset + run.local * size, pieces_.size()});
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
  const StoredShard& shard = manifest_.shards[static_cast<size_t>(pieces_[piece].shard)];
  const StoredPiece& stored = shard.pieces[static_cast<size_t>(pieces_[piece].index)];
  const int64_t size = kernels::SizeOf(manifest_.tensors.at(stored.tensor).dtype);
  const absl::StatusOr<uint64_t> found =
      HashOf(pieces_[piece].shard, stored.offset, stored.range.count * size);
  if (!found.ok()) return kernels::Annotate(found.status(), "tensor " + stored.tensor);
  if (*found != stored.hash) {
    return absl::DataLossError(directory() + "/" + shard.file + ": tensor " + stored.tensor +
                               " is damaged: " + Differs(stored.hash, *found));
  }
  pieces_[piece].verified = true;
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyShard(int index) {
  const size_t shard = static_cast<size_t>(index);
  const StoredShard& stored = manifest_.shards[shard];
  ASSIGN_OR_RETURN(const uint64_t header, HashOf(index, 0, stored.header_bytes));
  if (header != stored.header_hash) {
    return absl::DataLossError(directory() + "/" + stored.file +
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
    return absl::FailedPreconditionError("tensor " + tensor + " is not in " + directory() +
                                         ": it was saved by another model");
  }
  if (stored->second.dtype != dtype || !(stored->second.shape == range.global_shape)) {
    return absl::FailedPreconditionError(
        "tensor " + tensor + " of " + directory() + " does not fit: wanted " +
        kernels::Name(dtype) + range.global_shape.ToString() + ", found " +
        kernels::Name(stored->second.dtype) + stored->second.shape.ToString());
  }
  return ForEachPart(tensor, range, [&](const StoredRun& run, int64_t, int64_t, int64_t) {
    return VerifyPiece(run.piece);
  });
}

absl::Status CheckpointReader::Read(const std::string& tensor, const LogicalRange& range,
                                    void* out) {
  const int64_t size = kernels::SizeOf(manifest_.tensors.at(tensor).dtype);
  char* bytes = static_cast<char*>(out);
  return ForEachPart(
      tensor, range, [&](const StoredRun& run, int64_t within, int64_t to, int64_t count) {
        MUSTER_CHECK(pieces_[run.piece].verified) << tensor << " is read before it is verified";
        return ReadShard(pieces_[run.piece].shard, run.offset + within * size, count * size,
                         bytes + to * size);
      });
}

}  // namespace muster::runtime
