// CUDA streams, events and memory: the only file that calls cudaMalloc, cudaStreamCreate and
// cudaEventCreate.
#include <cuda_runtime.h>

#include <mutex>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/cuda_runtime.h"
#include "kernels/device/cuda_status.h"

namespace muster::kernels::cuda {
namespace {

class CudaEvent : public EventState {
 public:
  explicit CudaEvent(cudaEvent_t event) : event(event) {}
  ~CudaEvent() override { cudaEventDestroy(event); }
  const cudaEvent_t event;
};

class CudaGraph : public RecordedWork {
 public:
  CudaGraph(Device device, cudaGraphExec_t executable) : executable(executable), device_(device) {}
  ~CudaGraph() override {
    MakeCurrent(device_);
    cudaGraphExecDestroy(executable);
  }
  const cudaGraphExec_t executable;

 private:
  const Device device_;
};

class CudaStream : public StreamState {
 public:
  CudaStream(Device device, cudaStream_t stream, void* workspace)
      : StreamState(device, /*runs_inline=*/false), stream_(stream), workspace_(workspace) {}
  ~CudaStream() override {
    cudaStreamDestroy(stream_);
    FreeDevice(device, workspace_);
  }

  void Record(EventState& event) override {
    if (records) return Refuse("an event's record");
    Fail(ToStatus(cudaEventRecord(static_cast<CudaEvent&>(event).event, stream_),
                  "cudaEventRecord"));
  }
  void Wait(EventState& event) override {
    if (records) return Refuse("a wait for an event");
    Fail(ToStatus(cudaStreamWaitEvent(stream_, static_cast<CudaEvent&>(event).event, 0),
                  "cudaStreamWaitEvent"));
  }
  absl::Status Await(EventState& event) override {
    Fail(ToStatus(cudaEventSynchronize(static_cast<CudaEvent&>(event).event),
                  "cudaEventSynchronize"));
    return status();
  }
  absl::Status Synchronize() override {
    Fail(ToStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
    std::lock_guard lock(mutex_);
    return error_;
  }
  void Push(std::function<void()> work) override {
    if (records) return Refuse("host work");
    auto* owned = new std::function<void()>(std::move(work));
    const auto run = [](void* argument) {
      std::unique_ptr<std::function<void()>> call(static_cast<std::function<void()>*>(argument));
      (*call)();
    };
    const cudaError_t error = cudaLaunchHostFunc(stream_, run, owned);
    if (error != cudaSuccess) delete owned;
    Fail(ToStatus(error, "cudaLaunchHostFunc"));
  }
  void Fail(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    if (error_.ok()) error_ = status;
  }
  absl::Status status() override {
    std::lock_guard lock(mutex_);
    return error_;
  }
  void* native_handle() override { return stream_; }
  Workspace workspace() override { return {workspace_, kStreamWorkspaceBytes}; }

  absl::Status BeginRecording() override {
    refused_ = absl::OkStatus();
    // Of this thread: what other threads call meanwhile is neither recorded nor forbidden.
    RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                             "cudaStreamBeginCapture"));
    records = true;
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<RecordedWork>> EndRecording() override {
    MakeCurrent(device);
    records = false;
    cudaGraph_t graph = nullptr;
    const absl::Status ended =
        ToStatus(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    if (!refused_.ok() || !ended.ok()) {
      if (graph != nullptr) cudaGraphDestroy(graph);
      return refused_.ok() ? ended : refused_;
    }
    cudaGraphExec_t executable = nullptr;
    absl::Status made =
        ToStatus(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
    RETURN_IF_ERROR(made);
    auto work = std::make_unique<CudaGraph>(device, executable);
    // Else the first launch would do it.
    RETURN_IF_ERROR(ToStatus(cudaGraphUpload(executable, stream_), "cudaGraphUpload"));
    return work;
  }
  void Launch(RecordedWork& work) override {
    Fail(ToStatus(cudaGraphLaunch(static_cast<CudaGraph&>(work).executable, stream_),
                  "cudaGraphLaunch"));
  }

 private:
  void Refuse(const std::string& what) {
    if (refused_.ok()) refused_ = absl::FailedPreconditionError(what + " cannot be recorded");
  }

  const cudaStream_t stream_;
  void* const workspace_;
  absl::Status refused_;  // of the recording under way
  std::mutex mutex_;
  absl::Status error_;
};

absl::StatusOr<std::unique_ptr<EventState>> MakeEventWithFlags(Device device, unsigned flags) {
  MakeCurrent(device);
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&event, flags), "cudaEventCreate"));
  return std::make_unique<CudaEvent>(event);
}

}  // namespace

int DeviceCount() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void MakeCurrent(Device device) {
  int current = -1;
  if (cudaGetDevice(&current) == cudaSuccess && current == device.index) return;
  const absl::Status status =
      ToStatus(cudaSetDevice(device.index), "making " + kernels::Name(device) + " current");
  if (!status.ok()) Log(Severity::kError, std::string(status.message()));
}

std::string ProductName(Device device) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, device.index) != cudaSuccess) return "";
  return properties.name;
}

std::string PciBusId(Device device) {
  char name[32] = "";
  return cudaDeviceGetPCIBusId(name, sizeof(name), device.index) == cudaSuccess ? name : "";
}

absl::StatusOr<std::unique_ptr<EventState>> MakeEvent(Device device) {
  return MakeEventWithFlags(device, cudaEventDisableTiming);
}

absl::StatusOr<std::unique_ptr<EventState>> MakeTimedEvent(Device device) {
  return MakeEventWithFlags(device, cudaEventDefault);
}

absl::StatusOr<std::unique_ptr<StreamState>> MakeStream(Device device, const std::string& name,
                                                        StreamPriority priority) {
  MakeCurrent(device);
  int lowest = 0, highest = 0;
  RETURN_IF_ERROR(ToStatus(cudaDeviceGetStreamPriorityRange(&lowest, &highest),
                           "cudaDeviceGetStreamPriorityRange"));
  ASSIGN_OR_RETURN(void* workspace, AllocateDevice(device, kStreamWorkspaceBytes));
  cudaStream_t stream = nullptr;
  const int value = priority == StreamPriority::kHigh ? highest : lowest;
  const absl::Status created =
      ToStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, value),
               "creating stream " + name + " on " + kernels::Name(device));
  if (!created.ok()) {
    FreeDevice(device, workspace);
    return created;
  }
  return std::make_unique<CudaStream>(device, stream, workspace);
}

absl::StatusOr<void*> AllocateDevice(Device device, int64_t bytes) {
  MakeCurrent(device);
  void* data = nullptr;
  RETURN_IF_ERROR(
      ToStatus(cudaMalloc(&data, static_cast<size_t>(bytes)),
               "allocating " + std::to_string(bytes) + " bytes on " + kernels::Name(device)));
  return data;
}

absl::StatusOr<void*> AllocatePinned(int64_t bytes) {
  void* data = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaMallocHost(&data, static_cast<size_t>(bytes)),
                           "allocating " + std::to_string(bytes) + " bytes of pinned memory"));
  return data;
}

void FreeDevice(Device device, void* data) {
  MakeCurrent(device);
  const absl::Status status = ToStatus(cudaFree(data), "cudaFree");
  if (!status.ok()) Log(Severity::kError, std::string(status.message()));
}

void FreePinned(void* data) {
  const absl::Status status = ToStatus(cudaFreeHost(data), "cudaFreeHost");
  if (!status.ok()) Log(Severity::kError, std::string(status.message()));
}

absl::Status PinHost(Device device, void* data, int64_t bytes) {
  MakeCurrent(device);
  return ToStatus(cudaHostRegister(data, static_cast<size_t>(bytes), cudaHostRegisterDefault),
                  "pinning " + std::to_string(bytes) + " bytes of host memory");
}

void UnpinHost(void* data) {
  const absl::Status status = ToStatus(cudaHostUnregister(data), "cudaHostUnregister");
  if (!status.ok()) Log(Severity::kError, std::string(status.message()));
}

absl::Status CopyAsync(void* destination, const void* source, int64_t bytes, StreamView stream) {
  return ToStatus(
      cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes), cudaMemcpyDefault,
                      static_cast<cudaStream_t>(stream.native_handle())),
      "cudaMemcpyAsync of " + std::to_string(bytes) + " bytes");
}

absl::Status FillZero(Device device, void* data, int64_t bytes) {
  MakeCurrent(device);
  const std::string what = "zeroing " + std::to_string(bytes) + " bytes";
  RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), cudaStreamPerThread), what));
  return ToStatus(cudaStreamSynchronize(cudaStreamPerThread), what);
}

absl::Status FillZeroAsync(void* destination, int64_t bytes, StreamView stream) {
  return ToStatus(cudaMemsetAsync(destination, 0, static_cast<size_t>(bytes),
                                  static_cast<cudaStream_t>(stream.native_handle())),
                  "cudaMemsetAsync of " + std::to_string(bytes) + " bytes");
}

absl::StatusOr<bool> IsReached(EventState& event) {
  const cudaError_t error = cudaEventQuery(static_cast<CudaEvent&>(event).event);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // else a later check of a launch finds it
    return false;
  }
  RETURN_IF_ERROR(ToStatus(error, "cudaEventQuery"));
  return true;
}

absl::StatusOr<int64_t> ElapsedNs(EventState& begin, EventState& end) {
  float milliseconds = 0;
  RETURN_IF_ERROR(ToStatus(cudaEventElapsedTime(&milliseconds, static_cast<CudaEvent&>(begin).event,
                                                static_cast<CudaEvent&>(end).event),
                           "cudaEventElapsedTime"));
  return static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
}

}  // namespace muster::kernels::cuda
