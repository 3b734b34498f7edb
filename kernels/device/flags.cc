#include "kernels/device/flags.h"

#include <atomic>
#include <thread>

#include "kernels/base/log.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_peer.h"
#endif

namespace muster::kernels {
namespace {

bool IsPast(uint32_t flag, uint32_t value) { return static_cast<int32_t>(flag - value) >= 0; }

}  // namespace

void MeetAsync(const std::vector<uint32_t*>& raised, const std::vector<uint32_t*>& awaited,
               uint32_t value, StreamView stream) {
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == DeviceType::kCuda) {
    stream.Fail(cuda::Meet(raised, awaited, value, stream));
    return;
  }
#endif
  stream.Enqueue([=] {
    for (uint32_t* flag : raised) {
      std::atomic_ref<uint32_t>(*flag).store(value, std::memory_order_release);
    }
    for (uint32_t* flag : awaited) {
      const std::atomic_ref<uint32_t> theirs(*flag);
      while (!IsPast(theirs.load(std::memory_order_acquire), value)) std::this_thread::yield();
    }
  });
}

void OverrideFlags(uint32_t* flags, int count, uint32_t value, [[maybe_unused]] Device device) {
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda) {
    const absl::Status status = cuda::OverrideFlags(flags, count, value, device);
    if (!status.ok()) Log(Severity::kError, std::string(status.message()));
    return;
  }
#endif
  for (int i = 0; i < count; ++i) {
    std::atomic_ref<uint32_t>(flags[i]).store(value, std::memory_order_release);
  }
}

}  // namespace muster::kernels
