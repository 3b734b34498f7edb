#pragma once
// Host tensors of tests and their twins on a CUDA device: same memory, same slices.
#include <gtest/gtest.h>

#include <utility>

#include "kernels/device/stream.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

constexpr Device kCuda0 = {DeviceType::kCuda, 0};

// A suite whose tests are skipped where there is no CUDA device.
class OnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (DeviceCount(DeviceType::kCuda) == 0) GTEST_SKIP() << "no CUDA device here";
  }
};

inline Stream MakeCudaStream() {
  auto stream = Stream::Create(kCuda0, StreamMode::kQueue, "test");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

// A copy of `host` on the device, which takes part in `stream`.
inline Tensor CopyToCuda(const TensorView& host, StreamView stream) {
  auto tensor = Tensor::Allocate(host.dtype, host.shape, kCuda0);
  MUSTER_CHECK_OK(tensor.status());
  if (host.num_elements() > 0) CopyAsync(tensor->view(), host, stream);
  MUSTER_CHECK_OK(stream.Synchronize());
  return *std::move(tensor);
}

inline Tensor CopyToHost(const TensorView& device, StreamView stream) {
  Tensor host = MakeTensor(device.dtype, device.shape);
  if (device.num_elements() > 0) CopyAsync(host.view(), device, stream);
  MUSTER_CHECK_OK(stream.Synchronize());
  return host;
}

// The view into `to` that `view` is into `from`; both are whole tensors of one shape.
inline TensorView SameView(TensorView view, const TensorView& from, const TensorView& to) {
  view.data = static_cast<char*>(to.data) +
              (static_cast<const char*>(view.data) - static_cast<const char*>(from.data));
  view.device = to.device;
  return view;
}

}  // namespace muster::kernels
