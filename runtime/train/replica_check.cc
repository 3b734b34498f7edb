#include "runtime/train/replica_check.h"

#include <algorithm>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/hash.h"
#include "runtime/train/host_copy.h"
#include "runtime/train/roll_back.h"

namespace muster::runtime {
namespace {

using parallel::Bucket;
using parallel::BucketSlice;

std::string SetOf(const Bucket& bucket, const parallel::Mesh& mesh) {
  const parallel::ProcessGroup& group = mesh.Group(bucket.replica_axis);
  return absl::StrCat(group.name(), "@", group.world_ranks().front());
}

// This rank's hashes: one a set of replicas, or, if `by_tensor`, one a tensor.
absl::StatusOr<std::vector<ReplicaHash>> HashReplicas(const parallel::BucketStorage& storage,
                                                      const parallel::ParameterList& parameters,
                                                      const parallel::Mesh& mesh, bool by_tensor,
                                                      kernels::StreamView compute) {
  std::map<std::string, uint64_t> hashes;
  std::vector<char> buffer;
  for (const Bucket& bucket : storage.layout().buckets) {
    if (bucket.group_size == 1) continue;
    const std::string set = SetOf(bucket, mesh);
    for (const BucketSlice& slice : bucket.slices) {
      const parallel::Parameter& parameter = parameters[slice.parameter];
      if (!parameter.weight) continue;
      ASSIGN_OR_RETURN(const void* data, OnHost(parameter.weight, compute, &buffer));
      uint64_t& hash = hashes[by_tensor ? set + "/" + parameter.global_name : set];
      hash = kernels::Hash64(data, static_cast<size_t>(parameter.weight.bytes()), hash);
    }
  }
  std::vector<ReplicaHash> result;
  for (const auto& [set, hash] : hashes) result.push_back({set, hash});
  return result;
}

// Every rank's hashes, and the disputes among them.
absl::StatusOr<std::vector<ReplicaDispute>> Exchange(const std::vector<ReplicaHash>& mine,
                                                     parallel::World& world) {
  std::string text;
  for (const ReplicaHash& each : mine) {
    absl::StrAppend(&text, each.replicas, " ", kernels::HexDigits(each.hash), "\n");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, world.GatherText(text));
  std::vector<std::vector<ReplicaHash>> by_rank;
  for (const std::string& each : texts) {
    by_rank.emplace_back();
    for (const absl::string_view line : absl::StrSplit(each, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      uint64_t hash = 0;
      if (words.size() != 2 || !absl::SimpleHexAtoi(words[1], &hash)) continue;
      by_rank.back().push_back({words[0], hash});
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

absl::Status CheckReplicas(const parallel::BucketStorage& storage,
                           const parallel::ParameterList& parameters, const parallel::Mesh& mesh,
                           kernels::StreamView compute, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<ReplicaHash> hashes,
                   HashReplicas(storage, parameters, mesh, /*by_tensor=*/false, compute));
  ASSIGN_OR_RETURN(const std::vector<ReplicaDispute> disputes, Exchange(hashes, world));
  if (disputes.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<ReplicaHash> tensors,
                   HashReplicas(storage, parameters, mesh, /*by_tensor=*/true, compute));
  ASSIGN_OR_RETURN(const std::vector<ReplicaDispute> details, Exchange(tensors, world));
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
