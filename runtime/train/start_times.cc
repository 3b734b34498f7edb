#include "runtime/train/start_times.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/str_format.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

constexpr int64_t kSeenNs = 50'000'000;
constexpr int kStartTimeField = 22;  // proc(5): in clock ticks since the boot

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace

int64_t ProcessStartNs() {
  const int64_t now = kernels::MonotonicNs();
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // Field 2 is the program's name, in parentheses, and may hold anything.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return now;
  std::istringstream fields(text.substr(name_end + 1));
  std::string word;
  for (int field = 3; field < kStartTimeField; ++field) fields >> word;
  int64_t ticks = 0;
  const int64_t ticks_per_second = sysconf(_SC_CLK_TCK);
  timespec since_boot{};
  if (!(fields >> ticks) || ticks_per_second <= 0 ||
      clock_gettime(CLOCK_BOOTTIME, &since_boot) != 0) {
    return now;
  }
  const int64_t age_ns = int64_t{since_boot.tv_sec} * 1'000'000'000 + since_boot.tv_nsec -
                         ticks * (1'000'000'000 / ticks_per_second);
  return now - std::max<int64_t>(age_ns, 0);
}

void StartTimes::Enter(std::string part, int64_t now_ns) {
  entries_.emplace_back(std::move(part), now_ns);
}

void StartTimes::Enter(std::string part) { Enter(std::move(part), kernels::MonotonicNs()); }

std::string StartTimes::Line(int64_t end_ns) const {
  std::vector<std::pair<std::string, int64_t>> sums = {{"loading", 0}};
  int64_t since = start_ns_;
  size_t current = 0;
  const auto close = [&](int64_t now_ns) {
    sums[current].second += std::max<int64_t>(now_ns - since, 0);
    since = std::max(since, now_ns);
  };
  for (const auto& [part, at_ns] : entries_) {
    close(std::min(at_ns, end_ns));
    const auto found =
        std::find_if(sums.begin(), sums.end(), [&](const auto& sum) { return sum.first == part; });
    current = static_cast<size_t>(found - sums.begin());
    if (found == sums.end()) sums.emplace_back(part, 0);
  }
  close(end_ns);
  std::string line = absl::StrFormat("start: %.1f s", Seconds(end_ns - start_ns_));
  int64_t rest = 0;
  const char* sign = " = ";
  for (const auto& [part, ns] : sums) {
    if (ns < kSeenNs) {
      rest += ns;
      continue;
    }
    line += absl::StrFormat("%s%s %.1f", sign, part, Seconds(ns));
    sign = " + ";
  }
  if (rest >= kSeenNs) line += absl::StrFormat("%srest %.1f", sign, Seconds(rest));
  return line;
}

}  // namespace muster::runtime
