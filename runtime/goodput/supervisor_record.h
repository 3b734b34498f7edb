#pragma once
// The types and bounds of a supervisor's ledger records, shared by its writer and its parser. They
// are numbered apart from a rank's (RecordType), so that no file is taken for the other kind.
#include <cstddef>
#include <cstdint>

namespace muster::runtime {

enum class SupervisorRecord : uint8_t {
  kBegin = 64,
  kAttemptBegin = 65,
  kSpawn = 66,
  kExit = 67,
  kDetect = 68,
  kTeardown = 69,
  kSpareIn = 70,
  kAttemptEnd = 71,
  kHost = 72,
};

constexpr size_t kMaxEvidenceBytes = 140;
constexpr size_t kMaxDetectRanks = 10;  // more are named in the evidence

}  // namespace muster::runtime
