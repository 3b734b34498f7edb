#pragma once
// A tensor's values where the host can read them.
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

namespace muster::runtime {

// On the CPU the tensor's own memory; else `*buffer`, filled. Waits for the stream.
inline absl::StatusOr<const void*> OnHost(const kernels::TensorView& tensor,
                                          kernels::StreamView stream, std::vector<char>* buffer) {
  if (stream.device().type != kernels::DeviceType::kCpu) {
    buffer->resize(static_cast<size_t>(tensor.bytes()));
    kernels::CopyAsync(buffer->data(), tensor.data, tensor.bytes(), stream);
  }
  RETURN_IF_ERROR(stream.Synchronize());
  return stream.device().type == kernels::DeviceType::kCpu ? tensor.data : buffer->data();
}

}  // namespace muster::runtime
