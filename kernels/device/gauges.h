#pragma once
// What a GPU's sensors say, by NVIDIA's management library (NVML), which comes with the driver and
// is loaded when it is asked for. For benchmarks: speed follows clock and power.
#include <memory>

#include "kernels/device/device.h"

namespace muster::kernels {

struct GaugeReading {
  int sm_clock_mhz = 0;    // of the multiprocessors; 0: unknown
  double power_watts = 0;  // of the board, over the last moments; 0: unknown
};

class Gauges {
 public:
  // Null on the CPU, and where there is no such library or device.
  static std::unique_ptr<Gauges> Open(Device device);
  ~Gauges();
  Gauges(const Gauges&) = delete;
  Gauges& operator=(const Gauges&) = delete;
  // Takes the host some tens of microseconds.
  GaugeReading Read() const;

 private:
  struct Library;
  explicit Gauges(std::unique_ptr<Library> library);
  std::unique_ptr<Library> library_;
};

}  // namespace muster::kernels
