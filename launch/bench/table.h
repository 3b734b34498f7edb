#pragma once
// What `muster bench` prints: measurements, each beside its limit in the same run.
#include <string>
#include <utility>
#include <vector>

#include "kernels/device/gauges.h"

namespace muster::launch {

struct BenchRow {
  std::string name;    // "matmul 8192 x 8192 x 8192 forward"
  int calls = 1;       // whose time `seconds` is
  double seconds = 0;  // median of the runs
  double rate = 0;     // in `unit`; 0: not counted
  double limit = 0;    // in `unit`; 0: none known
  std::string unit;    // "TFLOP/s"
  kernels::GaugeReading gauges;
};

struct BenchTable {
  std::string title;
  // "device", "NVIDIA H200", ...: what the numbers depend on, in order.
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<BenchRow> rows;
};

// "1755 MHz 698 W", or empty.
std::string GaugeText(const kernels::GaugeReading& reading);
// Milliseconds, rate, limit and percentage of it, clock and power, a line a row.
std::string RenderText(const BenchTable& table);
// {"title", "facts": {...}, "rows": [{"name", "calls", "seconds", "rate", "limit", "unit",
// "percent_of_limit", "sm_clock_mhz", "power_watts"}]}; absent numbers are null.
std::string RenderJson(const BenchTable& table);

}  // namespace muster::launch
