#pragma once
// The hosts of a job: those in use and those kept aside. Pure.
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::launch {

struct HostSlots {
  std::string name;
  int slots = 1;  // ranks that may run there
  friend bool operator==(const HostSlots&, const HostSlots&) = default;
};

// A host a line, as mpirun's hostfiles: "node1 slots=8", "node2:8" or "node3" (one slot); "#"
// begins a comment. Errors: InvalidArgument with the line's number; no host; a host twice.
absl::StatusOr<std::vector<HostSlots>> ParseHosts(std::string_view text);

// The name of each rank's host: filled one after the other, each with as many ranks as it has
// slots. By this, and by nothing that a host says of itself, a supervisor knows where its ranks
// are. The hosts have `num_ranks` slots.
std::vector<std::string> PlaceRanks(const std::vector<HostSlots>& hosts, int num_ranks);

class HostPool {
 public:
  // Empty: the job runs on this host alone, without spares.
  HostPool() = default;
  // Keeps the last `spares` hosts aside. Errors: the others have not `num_ranks` slots.
  static absl::StatusOr<HostPool> Make(std::vector<HostSlots> hosts, int spares, int num_ranks);

  const std::vector<HostSlots>& in_use() const { return in_use_; }
  int num_slots() const;  // of the hosts in use
  // All that is allocated while `num_ranks` ranks run, which fill the hosts in use one after the
  // other. Hosts that were taken out are not: whether they still are, nobody here knows.
  std::vector<runtime::AttemptHost> Allocated(int num_ranks) const;
  // What the job could still have without these hosts: the slots of the others and of all spares.
  // 0 if one of them is not in use.
  int SlotsWithout(const std::vector<std::string>& hosts) const;
  // Takes these hosts out for good. Spares come in at their place, as few as have `num_ranks` slots
  // together with the hosts that stay; none, if these have enough. Returns those that came in.
  std::vector<std::string> Replace(const std::vector<std::string>& hosts, int num_ranks);

 private:
  std::vector<HostSlots> in_use_, spares_;
};

}  // namespace muster::launch
