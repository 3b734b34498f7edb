#pragma once
// The names that a rank's step time is divided among: the categories of its compute stream's
// Timeline (kernels/device/span.h). They tile the step, so they sum to its wall time.
namespace muster::parallel {

enum TimeCategory : int {
  kCompute,    // operators of forward and backward
  kExposedDp,  // the compute stream waits for gradient reduction or weight gather
  kExposedTp,  // ... for a collective of the tensor axis, and so on
  kExposedCp,
  kExposedPp,
  kExposedEp,
  kBubble,      // a pipeline stage without work
  kImbalance,   // the part of an exposed wait that is waiting for slower ranks to arrive
  kData,        // waiting for the batch
  kOptimizer,   // gradient norm, AdamW
  kCheckpoint,  // the step stalls for a snapshot
  kOther,       // what is left: metrics, evaluation of the loss on the host
  kNumTimeCategories,
};

constexpr const char* Name(TimeCategory category) {
  constexpr const char* kNames[] = {"compute",    "exposed_dp", "exposed_tp", "exposed_cp",
                                    "exposed_pp", "exposed_ep", "bubble",     "imbalance",
                                    "data",       "optimizer",  "checkpoint", "other"};
  return kNames[category];
}

}  // namespace muster::parallel
