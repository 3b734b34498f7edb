#pragma once
// What tells whether a process id that another process reports is one of ours: the boot of the
// kernel and the PID namespace in which it counts. Names do not tell: two hosts may call themselves
// alike, and a container has the name of another one or numbers of its own.
#include <cstdint>

namespace muster::launch {

// Of this process; 0: not known, which is no other's.
uint64_t ProcessSpace();
inline bool IsSameSpace(uint64_t a, uint64_t b) { return a != 0 && a == b; }

}  // namespace muster::launch
