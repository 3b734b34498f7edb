#include "runtime/checkpoint/format.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace muster::runtime {

absl::Status CheckManifestBytes(size_t bytes) {
  if (bytes <= static_cast<size_t>(kMaxManifestBytes)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("a manifest of ", bytes, " bytes; readers take at most ", kMaxManifestBytes,
                   ": store fewer pieces, by zero.level 1 or more, or by fewer, larger buckets "
                   "(communication.bucket_megabytes)"));
}

uint64_t StoredShard::Hash() const {
  std::vector<uint64_t> hashes = {header_hash};
  for (const StoredPiece& piece : pieces) hashes.push_back(piece.hash);
  return kernels::Hash64(hashes.data(), hashes.size() * sizeof(uint64_t));
}

int64_t Manifest::bytes() const {
  return std::accumulate(shards.begin(), shards.end(), int64_t{0},
                         [](int64_t sum, const StoredShard& shard) { return sum + shard.bytes; });
}

absl::Status Merge(const Manifest& part, Manifest* whole) {
  if (!(part.facts == whole->facts)) {
    return absl::FailedPreconditionError(
        "ranks save different facts: steps " + std::to_string(part.facts.step) + " and " +
        std::to_string(whole->facts.step) + ", or another seed, config, attempt or data cursor");
  }
  for (const auto& [name, tensor] : part.tensors) {
    const auto [place, is_new] = whole->tensors.emplace(name, tensor);
    if (place->second.dtype != tensor.dtype || !(place->second.shape == tensor.shape)) {
      return absl::FailedPreconditionError("ranks save tensor " + name + " as " +
                                           kernels::Name(tensor.dtype) + tensor.shape.ToString() +
                                           " and " + kernels::Name(place->second.dtype) +
                                           place->second.shape.ToString());
    }
  }
  whole->shards.insert(whole->shards.end(), part.shards.begin(), part.shards.end());
  return absl::OkStatus();
}

std::string CheckpointName(int64_t step) { return "step-" + std::to_string(step); }

std::string PartialName(const CheckpointFacts& facts) {
  return CheckpointName(facts.step) + ".attempt-" + std::to_string(facts.attempt) + ".partial";
}

int64_t StepOfName(const std::string& name) {
  int64_t step = -1;
  // The round trip refuses signs, spaces and leading zeros.
  if (name.rfind("step-", 0) != 0 || !absl::SimpleAtoi(name.substr(5), &step) || step < 0 ||
      CheckpointName(step) != name) {
    return -1;
  }
  return step;
}

bool IsBasename(const std::string& name) {
  return !name.empty() && name.size() <= 200 && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c < 127 && c != '/'; });
}

}  // namespace muster::runtime
