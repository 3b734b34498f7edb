#pragma once
// Training runs of the parity tests.
#include <gtest/gtest.h>

#include <string>

#include "parallel/comm/rendezvous.h"
#include "tests/parity/layouts.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {

// `overrides`, beside the model's own, are apart by spaces.
TrainingRun TrainModel(parallel::World& world, const ParityModel& model,
                       const std::string& overrides, int64_t steps);

// "moe_4_mesh_dp_2_mesh_tp_2"
std::string LayoutName(const testing::TestParamInfo<Layout>& info);

}  // namespace muster::runtime
