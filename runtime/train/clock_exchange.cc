#include "runtime/train/clock_exchange.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

constexpr int kMeetings = 8;  // the quickest of them bounds the offset

// The meeting before, as text.
std::string Told(const std::vector<Meeting>& meetings) {
  if (meetings.empty()) return "";
  return absl::StrCat(meetings.back().entered_ns, " ", meetings.back().left_ns);
}

absl::StatusOr<Meeting> Parse(const std::string& text) {
  const size_t space = text.find(' ');
  Meeting meeting;
  if (space == std::string::npos || !absl::SimpleAtoi(text.substr(0, space), &meeting.entered_ns) ||
      !absl::SimpleAtoi(text.substr(space + 1), &meeting.left_ns)) {
    return absl::InternalError(absl::StrCat("rank 0 tells '", text, "' of a meeting"));
  }
  return meeting;
}

}  // namespace

std::string KernelOf(const parallel::World& world) {
  const uint64_t boot = BootId();
  return boot != 0 ? absl::StrCat(boot) : world.host();
}

absl::StatusOr<ClockOffset> ExchangeClocks(const std::string& kernel, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> kernels, world.GatherText(kernel));
  const auto is_rank_0s = [&](const std::string& each) { return each == kernels.front(); };
  if (std::all_of(kernels.begin(), kernels.end(), is_rank_0s)) return ClockOffset{0, 0};
  std::vector<Meeting> rank_0s, own;
  for (int i = 0; i <= kMeetings; ++i) {  // each tells of the one before
    const std::string told = Told(own);
    Meeting meeting{.entered_ns = kernels::MonotonicNs()};
    ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(told));
    meeting.left_ns = kernels::MonotonicNs();
    if (i < kMeetings) own.push_back(meeting);
    if (i == 0) continue;
    ASSIGN_OR_RETURN(rank_0s.emplace_back(), Parse(all.front()));
  }
  return is_rank_0s(kernel) ? ClockOffset{0, 0} : OffsetFrom(rank_0s, own);
}

}  // namespace muster::runtime
