#include "launch/reach.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace muster::launch {
namespace {

bool IsLoopback(const std::string& address) { return address.starts_with("127."); }

std::string ShortName(const std::string& name) { return name.substr(0, name.find('.')); }

bool IsThisHost(const std::string& name, const std::vector<std::string>& addresses) {
  char own[256] = "";
  gethostname(own, sizeof(own) - 1);
  return name == "localhost" || IsLoopback(name) || ShortName(name) == ShortName(own) ||
         std::find(addresses.begin(), addresses.end(), name) != addresses.end();
}

}  // namespace

std::vector<std::string> OwnAddresses() {
  std::vector<std::string> addresses;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return addresses;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> all(first, &freeifaddrs);
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = "";
    const auto* address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
    inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text));
    addresses.emplace_back(text);
  }
  std::stable_partition(addresses.begin(), addresses.end(), IsLoopback);
  return addresses;
}

absl::Status CheckReach(const std::vector<HostSlots>& hosts, const std::string& interface) {
  if (!IsLoopback(interface) && interface != "0.0.0.0") return absl::OkStatus();
  std::vector<std::string> addresses = OwnAddresses();
  const auto remote = std::find_if(hosts.begin(), hosts.end(), [&](const HostSlots& host) {
    return !IsThisHost(host.name, addresses);
  });
  if (remote == hosts.end()) return absl::OkStatus();
  std::erase_if(addresses, IsLoopback);
  return absl::InvalidArgumentError(absl::StrCat(
      "ranks on ", remote->name, " cannot reach this supervisor at ", interface,
      ": give --interface the address of this host that they reach",
      addresses.empty() ? "" : absl::StrCat(" (it has ", absl::StrJoin(addresses, ", "), ")")));
}

}  // namespace muster::launch
