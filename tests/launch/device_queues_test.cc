#include "launch/device_queues.h"

#include <gtest/gtest.h>

namespace muster::launch {
namespace {

runtime::ResolvedJob JobOn(runtime::DeviceKind device, int pp) {
  runtime::ResolvedJob job;
  job.job.set_device(device);
  job.mesh.pp = pp;
  return job;
}

TEST(DeviceQueues, APipelineOnGpusWantsThem) {
  const runtime::ResolvedJob job = JobOn(runtime::CUDA, 2);
  for (const char* few : {"1", "7", "0", "-1", "", "many"}) {
    const absl::Status status = CheckDeviceQueues(job, {{"CUDA_DEVICE_MAX_CONNECTIONS", few}});
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << few;
    for (const std::string part : {"CUDA_DEVICE_MAX_CONNECTIONS=" + std::string(few) + " ",
                                   std::string("mesh.pp is 2"), std::string("unset it")}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << part << " not in " << status;
    }
  }
  for (const char* enough : {"16", "32"}) {
    EXPECT_TRUE(CheckDeviceQueues(job, {{"CUDA_DEVICE_MAX_CONNECTIONS", enough}}).ok()) << enough;
  }
  EXPECT_TRUE(CheckDeviceQueues(job, {}).ok());
}

TEST(DeviceQueues, NobodyElseDoes) {
  const Environment one = {{"CUDA_DEVICE_MAX_CONNECTIONS", "1"}};
  EXPECT_TRUE(CheckDeviceQueues(JobOn(runtime::CUDA, 1), one).ok());
  EXPECT_TRUE(CheckDeviceQueues(JobOn(runtime::CPU, 2), one).ok());
}

}  // namespace
}  // namespace muster::launch
