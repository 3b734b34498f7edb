#pragma once
// Marks functions that kernels call too: integer arithmetic with the same bits on CPU and CUDA.

#ifdef __CUDACC__
#define MUSTER_HOST_DEVICE __host__ __device__
#else
#define MUSTER_HOST_DEVICE
#endif
