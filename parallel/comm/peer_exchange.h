#pragma once
// How the ranks of a group on one host come to know each other's memory: each names its own
// (kernels/device/peer_memory.h), all share the names, and each maps what the others named.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/device/peer_memory.h"
#include "parallel/comm/copy_exchange.h"

namespace muster::parallel {

class PeerExchange {
 public:
  struct Options {
    std::string group;  // for messages
    std::string host;   // of this process
    int rank = 0, size = 0;
    kernels::Device device;
    CopyMemory memory;
    // All ranks call it: every rank's text, by rank of the group. Texts are of equal length.
    std::function<absl::StatusOr<std::vector<std::string>>(const std::string&)> gather;
  };

  // All ranks of the group call it. Errors: ranks of several hosts; memory that does not agree
  // between ranks; peer_memory.h's.
  static absl::StatusOr<std::unique_ptr<PeerExchange>> Create(Options options);
  CopyExchange& copies() { return *copies_; }
  // What peers named is no longer used here. Before a rank frees what it named, all must have.
  void Unmap() { mapped_.clear(); }

 private:
  PeerExchange() = default;
  kernels::DeviceBuffer flags_;
  std::vector<kernels::PeerMemory> mapped_;
  std::unique_ptr<CopyExchange> copies_;
};

}  // namespace muster::parallel
