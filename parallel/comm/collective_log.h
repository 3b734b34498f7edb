#pragma once
// The last collectives of this rank, in a ring of fixed size: what a hang report is made of. An
// entry is written when a call is enqueued, and updated when it starts and ends, from any thread.
// Comparing the logs of all ranks names the first collective on which ranks differ.
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
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

// Where in a step a call is made; -1: not known.
struct CollectivePlace {
  int64_t step = -1;
  int microbatch = -1, layer = -1, bucket = -1;
  bool operator==(const CollectivePlace&) const = default;
};

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
  CollectivePlace place;
  int peer = -1;  // world rank, of a send or receive
  // Counts a rank's sends to (receives from) one peer on one group: a send meets the receive of
  // the same number.
  uint64_t pair_sequence = 0;
  State state = State::kEnqueued;
  int64_t enqueued_ns = 0, started_ns = 0, done_ns = 0;  // CLOCK_MONOTONIC
};

// The ranks of a group, so that logs of different ranks can be laid side by side.
struct CollectiveGroup {
  std::string name;
  std::vector<int> world_ranks;
  bool operator==(const CollectiveGroup&) const = default;
  auto operator<=>(const CollectiveGroup&) const = default;
};

class CollectiveLog {
 public:
  explicit CollectiveLog(int capacity = 1024);
  void AddGroup(CollectiveGroup group);
  std::vector<CollectiveGroup> Groups() const;
  uint64_t Enqueued(const std::string& group, uint64_t sequence, CollectiveKind kind, int64_t bytes,
                    std::string site, int peer = -1);  // returns the entry's id
  void Started(uint64_t id);
  void Done(uint64_t id, bool ok);
  // Oldest first.
  std::vector<CollectiveEntry> Entries() const;
  // A line per entry that is not done, else the last one: for error messages.
  std::string DescribePending() const;

  // What later entries carry as their place. Fields of -1 leave what is set.
  void SetPlace(const CollectivePlace& place);
  // Sets a place, and gives the one before back when it ends.
  class At {
   public:
    At(CollectiveLog& log, const CollectivePlace& place) : log_(log), before_(log.place()) {
      log_.SetPlace(place);
    }
    ~At();
    At(const At&) = delete;
    At& operator=(const At&) = delete;

   private:
    CollectiveLog& log_;
    const CollectivePlace before_;
  };
  CollectivePlace place() const;

  // For drills: this rank leaves out its next call on `group` (empty: on any group), as a program
  // whose ranks disagree does.
  void SkipNextCall(std::string group);
  bool TakeSkip(const std::string& group);

 private:
  CollectiveEntry* Find(uint64_t id);
  mutable std::mutex mutex_;
  std::vector<CollectiveGroup> groups_;
  CollectivePlace place_;
  std::map<std::pair<std::string, int>, uint64_t> sent_, received_;  // by group and peer
  std::atomic<bool> skips_{false};
  std::string skip_group_;
  std::vector<CollectiveEntry> ring_;
  uint64_t next_id_ = 0;
};

}  // namespace muster::parallel
