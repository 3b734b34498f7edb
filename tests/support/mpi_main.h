#pragma once
// What tests under mpirun share: the job's world, made once. All ranks run all tests, in the same
// order; a test that needs other options makes a further World beside it.
#include <string>
#include <vector>

#include "kernels/device/device.h"
#include "parallel/comm/rendezvous.h"

namespace muster::parallel {

World& TestWorld();

// A group of all ranks.
std::unique_ptr<ProcessGroup> GroupOfAll(World& world, const std::string& name = "all",
                                         kernels::Device device = {});

// This rank's GPU. Only if HasGpus: the ranks of a host have one each.
kernels::Device TestGpu();
bool HasGpus();

}  // namespace muster::parallel
