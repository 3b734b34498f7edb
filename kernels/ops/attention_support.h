#pragma once
// What attention on CUDA can take, as far as it is known without a device: for checks before a job
// starts. Whether cuDNN has a kernel for a whole shape is known only where the shape is made
// (kernels/ops/cuda/attention_cudnn.h): the op then fails and says why.
#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/ops/attention.h"

namespace muster::kernels {

constexpr int64_t kMaxAttentionHeadSize = 256;  // of all kernels on CUDA
constexpr int64_t kFusedHeadSizeUnit = 8;       // of cuDNN's, in bf16

// Empty, or which head sizes the kernels take that run attention of this dtype on CUDA, if not
// these (of q and k, and of v). cuDNN's rules are those of Hopper: cudnn-frontend's support matrix,
// which has deterministic backward passes for all of them.
std::string HeadSizeProblem(AttentionKernel kernel, DType dtype, int64_t head_size,
                            int64_t value_head_size);

// The cuDNN that attention runs on, "9.19.0", and what it was compiled with, if that differs; empty
// in a build without.
std::string CudnnVersion();
namespace cuda {
std::string LoadedCudnnVersion();  // only in a build with
}

}  // namespace muster::kernels
