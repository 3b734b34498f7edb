#pragma once
// Which kept steps a failure could still undo.
#include "runtime/goodput/attribution.h"

namespace muster::runtime {

// Marks the productive steps that no committed checkpoint covers, while the run is open: its last
// attempt has not ended with all done. A checkpoint covers the steps that lead to it; that an
// attempt went on from a step shows that those before it were covered. Commits are in rank 0's
// ledger; without it none is known. Snapshots in memory are no commits.
void MarkAtRisk(const RunLog& log, Attribution* run);

}  // namespace muster::runtime
