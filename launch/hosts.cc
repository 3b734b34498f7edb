#include "launch/hosts.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/error.h"

namespace muster::launch {
namespace {

bool IsHostName(std::string_view name) {
  return !name.empty() && name[0] != '-' && name.size() <= 255 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '.' || c == '-' || c == '_';
         });
}

// Of many hosts of many slots, as many as an int can say.
int Slots(const std::vector<HostSlots>& hosts) {
  const int64_t sum =
      std::accumulate(hosts.begin(), hosts.end(), int64_t{0},
                      [](int64_t sum, const HostSlots& host) { return sum + host.slots; });
  return static_cast<int>(std::min<int64_t>(sum, std::numeric_limits<int>::max()));
}

std::vector<HostSlots>::const_iterator Find(const std::vector<HostSlots>& hosts,
                                            const std::string& name) {
  return std::find_if(hosts.begin(), hosts.end(),
                      [&name](const HostSlots& host) { return host.name == name; });
}

absl::StatusOr<HostSlots> ParseHost(const std::vector<std::string>& words) {
  HostSlots host;
  const std::vector<std::string> parts = absl::StrSplit(words[0], absl::MaxSplits(':', 1));
  host.name = parts[0];
  std::string slots = parts.size() == 2 ? parts[1] : "1";
  if (words.size() == 2 && parts.size() == 1) {
    const std::string_view word = words[1];
    if (!word.starts_with("slots=")) {
      return absl::InvalidArgumentError(absl::StrCat("'", words[1], "': wanted slots=N"));
    }
    slots = word.substr(6);
  } else if (words.size() > 1) {
    return absl::InvalidArgumentError("wanted one host and its slots");
  }
  if (!IsHostName(host.name)) {
    return absl::InvalidArgumentError(absl::StrCat("'", host.name, "' is no host name"));
  }
  if (!absl::SimpleAtoi(slots, &host.slots) || host.slots < 1 || host.slots > 1 << 20) {
    return absl::InvalidArgumentError(absl::StrCat("'", slots, "' slots: wanted a number >= 1"));
  }
  return host;
}

}  // namespace

absl::StatusOr<std::vector<HostSlots>> ParseHosts(std::string_view text) {
  std::vector<HostSlots> hosts;
  int number = 0;
  const std::vector<std::string> lines = absl::StrSplit(std::string(text), '\n');
  for (std::string_view line : lines) {
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<std::string> words =
        absl::StrSplit(std::string(line), absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    const absl::StatusOr<HostSlots> host = ParseHost(words);
    if (!host.ok()) return kernels::Annotate(host.status(), absl::StrCat("line ", number));
    for (const HostSlots& before : hosts) {
      if (before.name != host->name) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", host->name, " is there twice"));
    }
    hosts.push_back(*host);
  }
  if (hosts.empty()) return absl::InvalidArgumentError("it names no host");
  return hosts;
}

std::vector<std::string> PlaceRanks(const std::vector<HostSlots>& hosts, int num_ranks) {
  std::vector<std::string> host_of_rank;
  for (const HostSlots& host : hosts) {
    const auto room = static_cast<size_t>(num_ranks) - host_of_rank.size();
    host_of_rank.insert(host_of_rank.end(), std::min(room, static_cast<size_t>(host.slots)),
                        host.name);
  }
  MUSTER_CHECK(hosts.empty() || host_of_rank.size() == static_cast<size_t>(num_ranks));
  return host_of_rank;
}

absl::StatusOr<HostPool> HostPool::Make(std::vector<HostSlots> hosts, int spares, int num_ranks) {
  HostPool pool;
  if (spares < 0 || spares >= static_cast<int>(hosts.size())) {
    return absl::InvalidArgumentError(absl::StrCat("--spares ", spares, ": of ", hosts.size(),
                                                   " hosts at least one must be used"));
  }
  const auto first_spare = hosts.end() - spares;
  pool.in_use_.assign(hosts.begin(), first_spare);
  pool.spares_.assign(first_spare, hosts.end());
  if (pool.num_slots() < num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        num_ranks, " ranks are wanted, but the hosts in use have ", pool.num_slots(), " slots"));
  }
  return pool;
}

int HostPool::num_slots() const { return Slots(in_use_); }

std::vector<runtime::AttemptHost> HostPool::Allocated(int num_ranks) const {
  std::vector<runtime::AttemptHost> allocated;
  for (const HostSlots& host : in_use_) {
    const int ranks = std::min(host.slots, num_ranks);
    num_ranks -= ranks;
    allocated.push_back({.name = host.name, .devices = host.slots, .ranks = ranks});
  }
  for (const HostSlots& spare : spares_) {
    allocated.push_back({.name = spare.name, .devices = spare.slots});
  }
  return allocated;
}

int HostPool::SlotsWithout(const std::vector<std::string>& hosts) const {
  int64_t slots = int64_t{Slots(in_use_)} + Slots(spares_);
  for (const std::string& name : hosts) {
    const auto found = Find(in_use_, name);
    if (found == in_use_.end()) return 0;
    slots -= found->slots;
  }
  return static_cast<int>(std::min<int64_t>(slots, std::numeric_limits<int>::max()));
}

std::vector<std::string> HostPool::Replace(const std::vector<std::string>& hosts, int num_ranks) {
  auto place = in_use_.end();
  for (const std::string& name : hosts) {
    if (const auto found = Find(in_use_, name); found != in_use_.end()) {
      place = in_use_.erase(found);
    }
  }
  std::vector<std::string> came_in;
  for (int missing = num_ranks - num_slots(); missing > 0 && !spares_.empty();
       missing = num_ranks - num_slots()) {
    // The first that has enough, else the largest.
    auto spare = std::find_if(spares_.begin(), spares_.end(),
                              [&](const HostSlots& each) { return each.slots >= missing; });
    if (spare == spares_.end()) {
      spare = std::max_element(
          spares_.begin(), spares_.end(),
          [](const HostSlots& a, const HostSlots& b) { return a.slots < b.slots; });
    }
    came_in.push_back(spare->name);
    place = std::next(in_use_.insert(place, *spare));
    spares_.erase(spare);
  }
  return came_in;
}

}  // namespace muster::launch
