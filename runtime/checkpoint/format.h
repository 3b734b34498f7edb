#pragma once
// A committed checkpoint is a directory <run>/checkpoints/step-<n>: safetensors shards, one a rank,
// and manifest.json, which says what is in them and proves it. Tensors are logical: a name, a
// global shape, and pieces that are ranges of it, so that any layout can read them. The shards
// also open in other safetensors readers, which see each piece as a tensor of its own.
//
// manifest.json is one JSON object whose first member, "hash", is the XXH3 of every byte after it.
// Hashes find damage, not malice: a manifest is parsed as if it were hostile all the same.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "runtime/checkpoint/ranges.h"

namespace muster::runtime {

constexpr char kManifestName[] = "manifest.json";
// What a million tensors in two pieces each need, at about 100 bytes a tensor and 230 a piece, with
// names of 60 characters. Readers refuse a larger one, so it is not written either.
constexpr int64_t kMaxManifestBytes = int64_t{512} << 20;
// Errors (ResourceExhausted): more than that.
absl::Status CheckManifestBytes(size_t bytes);

// What a run needs besides tensors to go on as if it had never stopped.
struct CheckpointFacts {
  int64_t step = 0;           // the last one that is in the weights; the next is step + 1
  int64_t skipped_steps = 0;  // of them without an update: AdamW counts step - skipped_steps
  int64_t samples = 0;        // consumed of the training data: the data cursor
  uint64_t seed = 0;          // of weights and data order; every random value is a function of it
  uint64_t config_hash = 0;
  int attempt = 0;     // that saved it: the run's epoch (runtime/job/run_lock.h)
  std::string mesh;    // MeshDegrees::ToString() of the writers, for people
  std::string parent;  // what the attempt was restored from: "step-80", "" if nothing
  friend bool operator==(const CheckpointFacts&, const CheckpointFacts&) = default;
};

struct StoredTensor {
  kernels::DType dtype = kernels::DType::kFloat32;
  kernels::Shape shape;  // global
};

struct StoredPiece {
  std::string tensor;
  LogicalRange range;
  int64_t offset = 0;  // of its first byte in the file
  uint64_t hash = 0;   // of its bytes, taken in memory before they were written
};

struct StoredShard {
  std::string file;                 // a basename
  int64_t bytes = 0;                // of the whole file
  int64_t header_bytes = 0;         // everything before the first piece
  uint64_t header_hash = 0;         //
  std::vector<StoredPiece> pieces;  // in the file's order, without gaps: they end at `bytes`
  // Of header_hash and the pieces' hashes in order: one number for every byte of the file.
  uint64_t Hash() const;
};

struct Manifest {
  CheckpointFacts facts;
  std::map<std::string, StoredTensor> tensors;
  std::vector<StoredShard> shards;
  int64_t bytes() const;  // of all shards
};

std::string ManifestText(const Manifest& manifest);

// Errors (DataLoss, with `path`): the hash differs; a field is missing or of another type; a name
// that is no basename; a piece outside its tensor or file. That the pieces cover each tensor is the
// reader's to check.
absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& path);

// Adds the tensors and shards of `part` (one rank's) to `whole`. Errors: facts, a dtype or a shape
// that differ between ranks.
absl::Status Merge(const Manifest& part, Manifest* whole);

// "step-120" <-> 120; -1 for any other name.
std::string CheckpointName(int64_t step);
// "step-120.attempt-3.partial": a save in flight.
std::string PartialName(const CheckpointFacts& facts);
int64_t StepOfName(const std::string& name);
bool IsBasename(const std::string& name);

}  // namespace muster::runtime
