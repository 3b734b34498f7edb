#pragma once
// The learning rate of an update: a linear warm-up, then a decay, as a pure function. Any rank, and
// any restart, computes the same bits for the same update.
//
//   u <= warmup                peak u / warmup                        (update 1 is peak / warmup)
//   u >= decay_steps           floor = peak x min_learning_rate_ratio (COSINE and LINEAR)
//   between, with x = (u - warmup) / (decay_steps - warmup):
//     COSINE    floor + (peak - floor) (1 + cos(pi x)) / 2            (Loshchilov & Hutter 2017,
//     eq. 5) LINEAR    floor + (peak - floor) (1 - x) CONSTANT  peak
#include <cstdint>

#include "runtime/job/job.pb.h"

namespace muster::runtime {

// `update` counts from 1; decay_steps 0 means `total_steps`. If warm-up is not shorter than the
// decay, the rate falls to the floor right after it.
double LearningRate(const Optimizer& optimizer, int64_t total_steps, int64_t update);

}  // namespace muster::runtime
