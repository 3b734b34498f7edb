#pragma once
// Whose monotonic clock a time is of, and how far two of them are apart.
//
// When ranks exchange something that each of them needs from all others, none leaves before all
// have entered. So of two ranks a and b, whose clocks differ by o = b's less a's, and who entered
// at e and left at l, each by its own clock:
//   l_b - e_a >= o,   e_b - l_a <= o
// whatever the network does. Several exchanges narrow the interval; its middle is the offset, half
// of it the bound.
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

// Of one rank's part in an exchange, by its own clock.
struct Meeting {
  int64_t entered_ns = 0, left_ns = 0;
};

struct ClockOffset {
  int64_t ns = 0;         // own clock less the reference's
  int64_t bound_ns = -1;  // the true one differs by no more; -1: not known
};

// From meetings of the same number, at least one. If they contradict each other the bound is -1.
ClockOffset OffsetFrom(const std::vector<Meeting>& reference, const std::vector<Meeting>& own);

}  // namespace muster::runtime
