#pragma once
// The last collectives of this rank, in a ring of fixed size: what a hang report is made of. An
// entry is written when a call is enqueued, and updated when it starts and ends, from any thread.
// Comparing the logs of all ranks names the first collective on which ranks differ.
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace muster::parallel {

enum class CollectiveKind : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kShift,
  kSend,
  kReceive,
  kBroadcast,
  kBarrier,
};
const char* Name(CollectiveKind kind);

struct CollectiveEntry {
  enum class State : uint8_t { kEnqueued, kStarted, kDone, kFailed };
  uint64_t id = 0;    // counts this rank's calls on all groups
  std::string group;  // name of the process group
  // Counts collectives on that group: equal on all its ranks. A send or receive has the number of
  // the collective that comes next.
  uint64_t sequence = 0;
  CollectiveKind kind = CollectiveKind::kBarrier;
  int64_t bytes = 0;
  std::string site;  // file:line of the caller
  State state = State::kEnqueued;
  int64_t enqueued_ns = 0, started_ns = 0, done_ns = 0;  // CLOCK_MONOTONIC
};

class CollectiveLog {
 public:
  explicit CollectiveLog(int capacity = 1024);
  uint64_t Enqueued(const std::string& group, uint64_t sequence, CollectiveKind kind, int64_t bytes,
                    std::string site);  // returns the entry's id
  void Started(uint64_t id);
  void Done(uint64_t id, bool ok);
  // Oldest first.
  std::vector<CollectiveEntry> Entries() const;
  // A line per entry that is not done, else the last one: for error messages.
  std::string DescribePending() const;

 private:
  CollectiveEntry* Find(uint64_t id);
  mutable std::mutex mutex_;
  std::vector<CollectiveEntry> ring_;
  uint64_t next_id_ = 0;
};

}  // namespace muster::parallel
