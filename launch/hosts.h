#pragma once
// The hosts of a job: those in use and those kept aside. Pure.
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::launch {

struct HostSlots {
  std::string name;
  int slots = 1;  // ranks that may run there
  friend bool operator==(const HostSlots&, const HostSlots&) = default;
};

// A host a line, as mpirun's hostfiles: "node1 slots=8", "node2:8" or "node3" (one slot); "#"
// begins a comment. Errors: InvalidArgument with the line's number; no host; a host twice.
absl::StatusOr<std::vector<HostSlots>> ParseHosts(std::string_view text);

class HostPool {
 public:
  // Empty: the job runs on this host alone, without spares.
  HostPool() = default;
  // Keeps the last `spares` hosts aside. Errors: the others have not `num_ranks` slots.
  static absl::StatusOr<HostPool> Make(std::vector<HostSlots> hosts, int spares, int num_ranks);

  const std::vector<HostSlots>& in_use() const { return in_use_; }
  int num_spares() const { return static_cast<int>(spares_.size()); }
  int num_slots() const;
  // Takes `host` out for good and puts the first spare in its place, if there is one. Returns the
  // spare's name, or "" . A host that is not in use (its name is not known): only a spare comes in.
  std::string Replace(const std::string& host);

 private:
  std::vector<HostSlots> in_use_, spares_;
};

}  // namespace muster::launch
