#pragma once
// A rank of a job that does not run: its groups have their ranks, but nobody answers. What plans a
// rank's memory, which follows from the sizes of groups, can so run offline, on one host, for any
// world. Of the calls only those that open connections succeed, without doing anything; all others
// fail with FailedPrecondition.
#include <memory>

#include "parallel/comm/rendezvous.h"

namespace muster::parallel {

std::unique_ptr<World> MakePlannedWorld(int rank, int size);

}  // namespace muster::parallel
