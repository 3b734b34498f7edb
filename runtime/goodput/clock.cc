#include "runtime/goodput/clock.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace muster::runtime {

uint64_t BootId() {
  std::string boot;
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  if (!std::getline(file, boot) || boot.empty()) return 0;
  return kernels::Hash64(boot);
}

ClockOffset OffsetFrom(const std::vector<Meeting>& reference, const std::vector<Meeting>& own) {
  MUSTER_CHECK(!own.empty() && reference.size() == own.size()) << own.size();
  int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < own.size(); ++i) {
    least = std::max(least, own[i].entered_ns - reference[i].left_ns);
    most = std::min(most, own[i].left_ns - reference[i].entered_ns);
  }
  if (least > most) return {.ns = 0, .bound_ns = -1};
  const int64_t middle = least + (most - least) / 2;
  return {.ns = middle, .bound_ns = most - middle};
}

}  // namespace muster::runtime
