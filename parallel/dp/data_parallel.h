#pragma once
// The hooks through which layers drive the reducer and the gather: Use before a weight is read,
// Contribute before a gradient is written or added to, Ready once a microbatch's part of it is
// complete. Errors go to the stream.
#include "absl/status/status.h"
#include "parallel/dp/bucket_reducer.h"
#include "parallel/dp/param_gather.h"
#include "parallel/mesh/parameter.h"

namespace muster::parallel {

class DataParallelHooks : public ParameterHooks {
 public:
  DataParallelHooks(const BucketLayout& layout, BucketReducer& reducer, ParamGather& gather)
      : layout_(layout), reducer_(reducer), gather_(gather) {}
  void Use(ParameterId id, kernels::StreamView compute) override;
  bool Contribute(ParameterId id, kernels::StreamView compute) override;
  void Ready(ParameterId id, kernels::StreamView compute) override;

 private:
  const BucketLayout& layout_;
  BucketReducer& reducer_;
  ParamGather& gather_;
};

}  // namespace muster::parallel
