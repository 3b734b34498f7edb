#include "kernels/base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>

namespace muster::kernels {
namespace {
std::atomic<int> log_rank{-1};  // Written once after rendezvous; only the line prefix reads it.
}  // namespace

void SetLogRank(int world_rank) { log_rank.store(world_rank, std::memory_order_relaxed); }

void Log(Severity severity, const std::string& message) {
  static constexpr const char* kNames[] = {"INFO", "WARNING", "ERROR"};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm local{};
  localtime_r(&now.tv_sec, &local);
  char prefix[64];
  const int rank = log_rank.load(std::memory_order_relaxed);
  const int used =
      std::snprintf(prefix, sizeof(prefix), "%02d:%02d:%02d.%03ld %s", local.tm_hour, local.tm_min,
                    local.tm_sec, now.tv_nsec / 1000000, kNames[static_cast<int>(severity)]);
  std::string line(prefix, static_cast<size_t>(used));
  if (rank >= 0) line += " rank " + std::to_string(rank);
  line += ": " + message + "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace muster::kernels
