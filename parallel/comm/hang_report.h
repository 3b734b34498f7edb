#pragma once
// Who waits for whom, and since which call: a pure function over the collective logs of all ranks.
//
// Calls are laid side by side by group and sequence number (a send beside the receive that it
// meets). The first call on which ranks differ is
//   - one where ranks made different calls: of another kind, size or site, or for another step,
//     layer or bucket (differences of place count only if they go on to the end of the logs, as
//     they do once a call was left out: ranks of different stages may differ now and then);
//   - else one that some ranks wait in and others have not come to. Of those, the one that the
//     others wait for in the end: who waits elsewhere is not the cause.
// Who left a call out is told by majority, else by each rank's own order of calls before.
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/collective_record.h"

namespace muster::parallel {

struct HangReport {
  enum class Kind {
    kNone,       // no log shows a call that did not end
    kDifferent,  // ranks made different calls under one number
    kAbsent,     // ranks have not come to a call that others are in
    kCycle,      // ranks wait for each other in different calls
    kStuck,      // every rank is in the call, and it does not end
  };
  struct Deviation {
    int rank = 0;
    bool has_log = false;
    std::optional<CollectiveEntry> call;  // what it called instead, or its last one
    bool left_out = false;                // `call` is what the others call next
    bool waits = false;                   // `call` has not ended
  };
  struct Wait {
    int rank = 0;
    CollectiveEntry call;        // the oldest one that has not ended
    std::vector<int> waits_for;  // world ranks
  };

  Kind kind = Kind::kNone;
  CollectiveGroup group;              // of the call
  CollectiveEntry call;               // as the ranks that wait for it made it
  std::vector<int> ranks;             // that made it
  std::vector<Deviation> deviations;  // of the ranks that did not make it
  bool sure = true;                   // false: as many ranks, of equal history, say the opposite
  std::vector<Wait> waits;
  std::vector<int> silent;  // ranks without a log
};

HangReport ExplainHang(const std::vector<CollectiveRecord>& records);
// Several lines; the first names the call, the next ones the ranks.
std::string Describe(const HangReport& report);
// "reduce_scatter #17 of group dp, step 5, bucket 2, 4096 bytes, from parallel/dp/x.cc:90"
std::string Describe(const CollectiveEntry& call);

}  // namespace muster::parallel
