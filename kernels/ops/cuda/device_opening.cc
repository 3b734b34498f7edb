#include "kernels/ops/device_opening.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/ops/cuda/attention_cudnn.h"

namespace muster::kernels::cuda {

void OpenDevice(Device device) {
  if (cudaSetDevice(device.index) != cudaSuccess || cudaFree(nullptr) != cudaSuccess) return;
  cublasLtHandle_t products = nullptr;
  if (cublasLtCreate(&products) == CUBLAS_STATUS_SUCCESS) cublasLtDestroy(products);
#ifdef MUSTER_WITH_CUDNN
  CudnnAttention::Load();
#endif
}

}  // namespace muster::kernels::cuda
