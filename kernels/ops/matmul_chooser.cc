#include "kernels/ops/matmul_chooser.h"

namespace muster::kernels {

absl::StatusOr<std::unique_ptr<MatmulChooser>> MakeMatmulChooser(
    [[maybe_unused]] StreamView stream) {
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == DeviceType::kCuda) return cuda::MakeMatmulChooser(stream);
#endif
  return nullptr;
}

}  // namespace muster::kernels
