#pragma once
// Reads a committed checkpoint onto any layout: for a wanted range of a logical tensor it copies
// the parts of all stored pieces that meet it. Only what the manifest names is read, beneath the
// checkpoint's directory, and nothing is handed out whose hash was not compared first.
#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/format.h"
#include "runtime/job/read_file.h"

namespace muster::runtime {

// Errors: not found, or no regular file; see ParseManifest.
absl::StatusOr<Manifest> ReadManifest(const std::string& directory, const std::string& name);

// Errors (DataLoss): an element of a tensor that no piece, or more than one, holds; it is named.
absl::Status CheckCoverage(const Manifest& manifest);

class CheckpointReader {
 public:
  // Reads the manifest and looks at the shards. Errors, all DataLoss: a symlink where the directory
  // or a file should be; what the disk cannot read; a shard that is missing or of another size
  // (named, with the first tensor that is cut); coverage.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& directory);
  // Of one rank's shard and its record (runtime/checkpoint/writer.h), to verify it: there is no
  // coverage to check, and no Read.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenPart(const std::string& directory,
                                                                    const std::string& record);

  const Manifest& manifest() const { return manifest_; }
  const std::string& directory() const { return directory_.path(); }
  int num_shards() const { return static_cast<int>(manifest_.shards.size()); }

  // Compares the hash of every byte of a shard. Errors (DataLoss) name the file and the tensor: it
  // is damaged, or the disk cannot read it.
  absl::Status VerifyShard(int index);
  absl::Status VerifyAll();
  // Compares the hashes of the pieces that a later Read of this range copies from. Errors: DataLoss
  // as above; FailedPrecondition if the tensor is not stored, or with another shape or dtype.
  absl::Status Verify(const std::string& tensor, kernels::DType dtype, const LogicalRange& range);
  // Copies range.count elements to `out` (host memory). CHECKs that Verify was called for it.
  // Errors (DataLoss): what could be read then cannot be any more.
  absl::Status Read(const std::string& tensor, const LogicalRange& range, void* out);

 private:
  struct Piece {
    int shard = 0, index = 0;
    bool verified = false;
  };
  struct StoredRun {  // of a tensor, ascending and without gaps
    int64_t global, count;
    int64_t offset;  // in its shard
    size_t piece;    // of pieces_
  };
  // Short runs of a shard that follow each other are read by one call.
  struct Window {
    int shard = -1;
    int64_t begin = 0;
    std::vector<char> bytes;
  };
  static constexpr size_t kNumWindows = 32, kMostOpenFiles = 32;

  explicit CheckpointReader(ReadDirectory directory) : directory_(std::move(directory)) {}
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenWith(const std::string& directory,
                                                                    const std::string& manifest);
  absl::Status CheckShard(const StoredShard& shard) const;
  absl::StatusOr<const ReadFile*> Shard(int index);
  void IndexRuns();
  absl::StatusOr<uint64_t> HashOf(int shard, int64_t offset, int64_t bytes);
  absl::Status ReadShard(int shard, int64_t offset, int64_t bytes, char* out);
  absl::Status VerifyPiece(size_t piece);
  // Calls visit(stored run, offset in it, offset in `out`, count) for each part of the range.
  template <typename Visit>
  absl::Status ForEachPart(const std::string& tensor, const LogicalRange& range,
                           const Visit& visit) const;

  const ReadDirectory directory_;
  Manifest manifest_;
  std::map<int, ReadFile> open_;  // by shard; as many as there are ranks need not fit
  std::array<Window, kNumWindows> windows_;
  std::vector<char> block_;
  std::vector<Piece> pieces_;
  std::vector<size_t> first_piece_;                     // of each shard, in pieces_
  std::map<std::string, std::vector<StoredRun>> runs_;  // by tensor
};

}  // namespace muster::runtime
