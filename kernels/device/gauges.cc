#include "kernels/device/gauges.h"

#include <dlfcn.h>

#include <string>
#include <utility>
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {
namespace {

// Of nvml.h, which a toolkit need not have.
constexpr int kNvmlSuccess = 0, kNvmlClockSm = 1;
using NvmlDevice = void*;

}  // namespace

struct Gauges::Library {
  void* handle = nullptr;
  NvmlDevice device = nullptr;
  bool is_started = false;
  int (*start)() = nullptr;
  int (*stop)() = nullptr;
  int (*find)(const char* pci_bus_id, NvmlDevice* device) = nullptr;
  int (*clock)(NvmlDevice device, int kind, unsigned* megahertz) = nullptr;
  int (*power)(NvmlDevice device, unsigned* milliwatts) = nullptr;

  ~Library() {
    if (is_started) stop();
    if (handle != nullptr) dlclose(handle);
  }
  template <typename Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle, name));
    return *function != nullptr;
  }
  bool Open(const std::string& pci_bus_id) {
    handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return false;
    if (!Find("nvmlInit_v2", &start) || !Find("nvmlShutdown", &stop) ||
        !Find("nvmlDeviceGetHandleByPciBusId_v2", &find) ||
        !Find("nvmlDeviceGetClockInfo", &clock) || !Find("nvmlDeviceGetPowerUsage", &power)) {
      return false;
    }
    is_started = start() == kNvmlSuccess;
    return is_started && find(pci_bus_id.c_str(), &device) == kNvmlSuccess;
  }
};

Gauges::Gauges(std::unique_ptr<Library> library) : library_(std::move(library)) {}
Gauges::~Gauges() = default;

std::unique_ptr<Gauges> Gauges::Open(Device device) {
  if (device.type != DeviceType::kCuda) return nullptr;
  std::string pci_bus_id;  // NVML counts devices that CUDA_VISIBLE_DEVICES hides
#ifdef MUSTER_WITH_CUDA
  pci_bus_id = cuda::PciBusId(device);
#endif
  auto library = std::make_unique<Library>();
  if (pci_bus_id.empty() || !library->Open(pci_bus_id)) return nullptr;
  return std::unique_ptr<Gauges>(new Gauges(std::move(library)));
}

GaugeReading Gauges::Read() const {
  unsigned megahertz = 0, milliwatts = 0;
  GaugeReading reading;
  if (library_->clock(library_->device, kNvmlClockSm, &megahertz) == kNvmlSuccess) {
    reading.sm_clock_mhz = static_cast<int>(megahertz);
  }
  if (library_->power(library_->device, &milliwatts) == kNvmlSuccess) {
    reading.power_watts = milliwatts * 1e-3;
  }
  return reading;
}

}  // namespace muster::kernels
