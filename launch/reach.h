#pragma once
// Whether the ranks of a job can reach its supervisor.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launch/hosts.h"

namespace muster::launch {

// The numeric IPv4 addresses of this host, loopback first.
std::vector<std::string> OwnAddresses();

// Errors: InvalidArgument if `interface` is one that only this host reaches, and `hosts` has
// others: which, and which addresses could be meant. Names are compared, not looked up.
absl::Status CheckReach(const std::vector<HostSlots>& hosts, const std::string& interface);

}  // namespace muster::launch
