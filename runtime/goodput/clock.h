#pragma once
// Whose monotonic clock a time is of, and how far two of them are apart.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

// All processes of a kernel since its boot read one monotonic clock.
struct ClockId {
  std::string host;
  uint64_t boot = 0;  // a hash of the kernel's boot id; 0: not known
  // Of one boot; where that is not known, of one host.
  bool operator==(const ClockId& other) const {
    return boot != 0 && other.boot != 0 ? boot == other.boot : host == other.host;
  }
};

// This kernel's; 0 if it does not say.
uint64_t BootId();

// When a rank came to, and left, a point that no rank leaves before all have come to it; its own
// clock (CLOCK_MONOTONIC ns).
struct ClockRound {
  int64_t before_ns = 0, after_ns = 0;
};
// What to add to a rank's clock; the truth is at most `uncertainty_ns` away.
struct ClockOffset {
  int64_t offset_ns = 0, uncertainty_ns = 0;
};
// From `mine` to `reference`, from the same rounds. In each, neither rank can have left before the
// other came, whatever the network does: that bounds the offset from both sides.
ClockOffset OffsetBetween(const std::vector<ClockRound>& mine,
                          const std::vector<ClockRound>& reference);

}  // namespace muster::runtime
