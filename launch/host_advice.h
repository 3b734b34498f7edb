#pragma once
// Judges a host's facts: what is there, what is missing for training, what to do about it. Pure.
#include <string>
#include <vector>

#include "launch/host_facts.h"

namespace muster::launch {

struct Finding {
  enum class Level {
    kOk,       // there
    kNote,     // absent or small; training on this host works without
    kMissing,  // training on this host cannot work, or not under mpirun
  };
  Level level = Level::kOk;
  std::string subject;  // "processor"
  std::string found;    // "Xeon, 8 of 16 CPUs usable, avx2 fma avx512f"
  std::string advice;   // what to install or change; empty if kOk
};
const char* Name(Finding::Level level);

std::vector<Finding> Assess(const HostFacts& facts);

}  // namespace muster::launch
