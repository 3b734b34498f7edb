#include "runtime/goodput/clock.h"

#include <algorithm>
#include <cstdlib>
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

ClockOffset OffsetBetween(const std::vector<ClockRound>& mine,
                          const std::vector<ClockRound>& reference) {
  MUSTER_CHECK(!mine.empty() && mine.size() == reference.size());
  int64_t low = std::numeric_limits<int64_t>::min(), high = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < mine.size(); ++i) {
    low = std::max(low, reference[i].before_ns - mine[i].after_ns);
    high = std::min(high, reference[i].after_ns - mine[i].before_ns);
  }
  // Clocks that drift against each other can leave low above high, by next to nothing.
  return {low + (high - low) / 2, std::abs(high - low) / 2 + 1};
}

}  // namespace muster::runtime
