#include "runtime/train/replica_check.h"

#include <algorithm>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "kernels/device/memory.h"
#include "runtime/train/roll_back.h"

namespace muster::runtime {
namespace {

using parallel::Bucket;

bool HasReplicas(const Bucket& bucket) { return bucket.group_size * bucket.copies > 1; }

std::string SetOf(const Bucket& bucket, const parallel::Mesh& mesh) {
  const parallel::ProcessGroup& group = mesh.Group(bucket.replica_axis);
  return absl::StrCat(group.name(), "@", group.world_ranks().front());
}

std::string NoteOf(const std::vector<ReplicaHash>& hashes) {
  std::string note;
  for (const ReplicaHash& each : hashes) {
    absl::StrAppend(&note, note.empty() ? "" : " ", each.replicas, " ",
                    kernels::HexDigits(each.hash));
  }
  return note;
}

std::vector<ReplicaDispute> DisputesIn(const std::vector<std::string>& notes) {
  std::vector<std::vector<ReplicaHash>> by_rank;
  for (const std::string& note : notes) {
    by_rank.emplace_back();
    const std::vector<std::string> words = absl::StrSplit(note, ' ', absl::SkipEmpty());
    for (size_t i = 0; i + 1 < words.size(); i += 2) {
      uint64_t hash = 0;
      if (absl::SimpleHexAtoi(words[i + 1], &hash)) by_rank.back().push_back({words[i], hash});
    }
  }
  return CompareReplicas(by_rank);
}

}  // namespace

std::vector<ReplicaDispute> CompareReplicas(const std::vector<std::vector<ReplicaHash>>& by_rank) {
  std::map<std::string, std::map<uint64_t, std::vector<int>>> sets;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    for (const ReplicaHash& each : by_rank[rank]) {
      sets[each.replicas][each.hash].push_back(static_cast<int>(rank));
    }
  }
  std::vector<ReplicaDispute> disputes;
  for (const auto& [set, sides] : sets) {
    if (sides.size() < 2) continue;
    size_t most = 0;
    int num_most = 0;
    for (const auto& [hash, ranks] : sides) most = std::max(most, ranks.size());
    for (const auto& [hash, ranks] : sides) num_most += ranks.size() == most ? 1 : 0;
    ReplicaDispute dispute{.replicas = set, .ranks = {}, .tie = num_most > 1};
    for (const auto& [hash, ranks] : sides) {
      if (!dispute.tie && ranks.size() == most) continue;
      dispute.ranks.insert(dispute.ranks.end(), ranks.begin(), ranks.end());
    }
    std::sort(dispute.ranks.begin(), dispute.ranks.end());
    disputes.push_back(std::move(dispute));
  }
  return disputes;
}

absl::StatusOr<std::unique_ptr<ReplicaCheck>> ReplicaCheck::Create(const TrainingState& state,
                                                                   parallel::World& world,
                                                                   int64_t every) {
  std::unique_ptr<ReplicaCheck> check(new ReplicaCheck(state, world, every));
  if (every == 0) return check;
  ASSIGN_OR_RETURN(check->host_, kernels::DeviceBuffer::AllocateHost(
                                     state.device, state.digests->sums().bytes()));
  return check;
}

void ReplicaCheck::Take() {
  const kernels::StreamView compute = state_.compute();
  state_.gather->Finish(compute);
  state_.digests->Clear(compute);
  for (int b = 0; b < static_cast<int>(state_.layout.buckets.size()); ++b) {
    if (!HasReplicas(state_.layout.buckets[static_cast<size_t>(b)])) continue;
    state_.digests->Add(b, state_.buckets->weights(b), compute);
  }
  const kernels::TensorView& sums = state_.digests->sums();
  kernels::CopyAsync(host_.data(), sums.data, sums.bytes(), compute);
}

std::vector<ReplicaHash> ReplicaCheck::Hashes(bool by_tensor) const {
  std::map<std::string, uint64_t> hashes;
  for (int b = 0; b < static_cast<int>(state_.layout.buckets.size()); ++b) {
    const Bucket& bucket = state_.layout.buckets[static_cast<size_t>(b)];
    if (!HasReplicas(bucket)) continue;
    const std::string set = SetOf(bucket, *state_.mesh);
    const auto* sums = static_cast<const int64_t*>(host_.data()) + state_.digests->first(b);
    for (size_t i = 0; i < bucket.slices.size(); ++i) {
      const std::string& name = (*state_.parameters)[bucket.slices[i].parameter].global_name;
      uint64_t& hash = hashes[by_tensor ? set + "/" + name : set];
      hash = kernels::Hash64(&sums[i], sizeof(sums[i]), hash);
    }
  }
  std::vector<ReplicaHash> result;
  for (const auto& [set, hash] : hashes) result.push_back({set, hash});
  return result;
}

std::string ReplicaCheck::Note() const { return NoteOf(Hashes(/*by_tensor=*/false)); }

absl::Status ReplicaCheck::Hear(const std::vector<std::string>& notes) const {
  if (DisputesIn(notes).empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> tensors,
                   world_.GatherText(NoteOf(Hashes(/*by_tensor=*/true))));
  const std::vector<ReplicaDispute> details = DisputesIn(tensors);
  std::string text = "replicas of weights differ between ranks:";
  constexpr size_t kMostNamed = 8;
  for (size_t i = 0; i < std::min(details.size(), kMostNamed); ++i) {
    const size_t slash = details[i].replicas.find('/');
    absl::StrAppend(&text, "\n  ", details[i].replicas.substr(slash + 1), ", replicas ",
                    details[i].replicas.substr(0, slash), ": rank ",
                    absl::StrJoin(details[i].ranks, ", "),
                    details[i].tie ? " (no majority tells who is wrong)" : " against the others");
  }
  if (details.size() > kMostNamed) {
    absl::StrAppend(&text, "\n  and ", details.size() - kMostNamed, " more");
  }
  return RollBackError(text);
}

}  // namespace muster::runtime
