#pragma once
// Where the time from a process' start to the end of its first step goes: parts that tile it, for
// one line in the log. The same time is in the ledger, in coarser states.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace muster::runtime {

// When the kernel started this process, on CLOCK_MONOTONIC, to 10 ms: before main, libraries are
// loaded. The present if /proc does not say.
int64_t ProcessStartNs();

class StartTimes {
 public:
  // In "loading" from then on.
  explicit StartTimes(int64_t process_start_ns) : start_ns_(process_start_ns) {}
  // From `now_ns` on the time is `part`'s, which may come again.
  void Enter(std::string part, int64_t now_ns);
  void Enter(std::string part);  // from now on
  // "start: 4.9 s = loading 0.3 + runtime 1.2 + ...", in the order of the first entries; what is
  // too short to be seen is added up as "rest".
  std::string Line(int64_t end_ns) const;

 private:
  const int64_t start_ns_;
  std::vector<std::pair<std::string, int64_t>> entries_;  // part, since when
};

// For those that may have none.
inline void EnterPart(StartTimes* times, std::string part) {
  if (times != nullptr) times->Enter(std::move(part));
}

}  // namespace muster::runtime
