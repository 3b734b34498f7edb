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

std::string HostPool::Replace(const std::string& host) {
  std::erase_if(in_use_, [&host](const HostSlots& used) { return used.name == host; });
  if (spares_.empty()) return "";
  in_use_.push_back(spares_.front());
  spares_.erase(spares_.begin());
  return in_use_.back().name;
}

}  // namespace muster::launch
