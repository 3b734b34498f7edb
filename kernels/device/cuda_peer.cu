// Memory and flags that GPUs of one host share between processes. The driver's functions are looked
// up at run time, so that no program has to link against the driver.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/cuda_peer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/current_device.h"

namespace muster::kernels::cuda {
namespace {

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(MemoryHandle::allocation));

constexpr unsigned kDriverVersion = 12000;  // whose form of the functions is asked for

absl::Status FromDriver(CUresult result, const std::string& what) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(what + ": driver error " + std::to_string(static_cast<int>(result)));
}

template <typename Function>
absl::StatusOr<Function> DriverFunction(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(ToStatus(
      cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &state),
      std::string("looking up ") + name));
  if (state == cudaDriverEntryPointSuccess) return reinterpret_cast<Function>(found);
  return absl::FailedPreconditionError(std::string("the CUDA driver has no ") + name +
                                       "; it must be of version 12.0 or later");
}

CUdeviceptr Address(const void* data) { return reinterpret_cast<CUdeviceptr>(data); }

}  // namespace

absl::StatusOr<MemoryHandle> Export(const void* data, Device device) {
  MakeCurrent(device);
  using GetAddressRange = CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr);
  ASSIGN_OR_RETURN(const auto range_of, DriverFunction<GetAddressRange>("cuMemGetAddressRange"));
  CUdeviceptr base = 0;
  size_t size = 0;
  RETURN_IF_ERROR(FromDriver(range_of(&base, &size, Address(data)), "finding an allocation"));
  cudaIpcMemHandle_t driver_handle;
  RETURN_IF_ERROR(
      ToStatus(cudaIpcGetMemHandle(&driver_handle, reinterpret_cast<void*>(base)),
               "sharing " + std::to_string(size) + " bytes of " + kernels::Name(device)));
  MemoryHandle handle;
  std::memcpy(handle.allocation.data(), &driver_handle, sizeof(driver_handle));
  handle.offset_bytes = static_cast<int64_t>(Address(data) - base);
  return handle;
}

absl::StatusOr<void*> Map(const MemoryHandle& handle, Device device) {
  MakeCurrent(device);
  cudaIpcMemHandle_t driver_handle;
  std::memcpy(&driver_handle, handle.allocation.data(), sizeof(driver_handle));
  void* mapped = nullptr;
  RETURN_IF_ERROR(ToStatus(
      cudaIpcOpenMemHandle(&mapped, driver_handle, cudaIpcMemLazyEnablePeerAccess),
      "mapping another process's GPU memory for " + kernels::Name(device) +
          " (both GPUs must be of one host, reach each other, and be seen by both processes)"));
  return mapped;
}

void Unmap(void* mapped, Device device) {
  MakeCurrent(device);
  const absl::Status status = ToStatus(cudaIpcCloseMemHandle(mapped), "cudaIpcCloseMemHandle");
  if (!status.ok()) Log(Severity::kError, std::string(status.message()));
}

absl::Status Meet(const std::vector<uint32_t*>& raised, const std::vector<uint32_t*>& awaited,
                  uint32_t value, StreamView stream) {
  using BatchMemOp = CUresult (*)(CUstream, unsigned, CUstreamBatchMemOpParams*, unsigned);
  ASSIGN_OR_RETURN(const auto enqueue, DriverFunction<BatchMemOp>("cuStreamBatchMemOp"));
  std::vector<CUstreamBatchMemOpParams> ops;
  for (uint32_t* flag : raised) {
    CUstreamBatchMemOpParams& op = ops.emplace_back();
    std::memset(&op, 0, sizeof(op));
    op.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    op.writeValue.address = Address(flag);
    op.writeValue.value = value;
    op.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
  }
  for (uint32_t* flag : awaited) {
    CUstreamBatchMemOpParams& op = ops.emplace_back();
    std::memset(&op, 0, sizeof(op));
    op.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    op.waitValue.address = Address(flag);
    op.waitValue.value = value;
    op.waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
  }
  if (ops.empty()) return absl::OkStatus();
  return FromDriver(enqueue(static_cast<CUstream>(stream.native_handle()),
                            static_cast<unsigned>(ops.size()), ops.data(), 0),
                    "cuStreamBatchMemOp of " + std::to_string(ops.size()) + " flags");
}

absl::Status OverrideFlags(uint32_t* flags, int count, uint32_t value, Device device) {
  MakeCurrent(device);
  const std::vector<uint32_t> values(static_cast<size_t>(count), value);
  cudaStream_t stream = nullptr;  // of its own: the others may be waiting
  RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                           "cudaStreamCreateWithFlags"));
  absl::Status status =
      ToStatus(cudaMemcpyAsync(flags, values.data(), values.size() * sizeof(uint32_t),
                               cudaMemcpyHostToDevice, stream),
               "cudaMemcpyAsync of flags");
  const absl::Status ran = ToStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  cudaStreamDestroy(stream);
  return status.ok() ? ran : status;
}

}  // namespace muster::kernels::cuda
