#include "launch/bench/table.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace muster::launch {

std::string GaugeText(const kernels::GaugeReading& reading) {
  if (reading.sm_clock_mhz == 0) return "";
  return absl::StrFormat("%d MHz %.0f W", reading.sm_clock_mhz, reading.power_watts);
}

std::string RenderText(const BenchTable& table) {
  std::string text = table.title + "\n";
  for (const auto& [name, value] : table.facts) {
    text += absl::StrFormat("  %-12s %s\n", name, value);
  }
  size_t width = 0;
  for (const BenchRow& row : table.rows) width = std::max(width, row.name.size());
  for (const BenchRow& row : table.rows) {
    text += absl::StrFormat("  %-*s %5d x %10.4f ms", static_cast<int>(width), row.name, row.calls,
                            row.seconds * 1e3 / row.calls);
    if (row.rate > 0) text += absl::StrFormat(" %8.4g %s", row.rate, row.unit);
    if (row.rate > 0 && row.limit > 0) {
      text += absl::StrFormat("  %5.1f %% of %.4g", 100 * row.rate / row.limit, row.limit);
    }
    const std::string gauges = GaugeText(row.gauges);
    if (!gauges.empty()) text += "  " + gauges;
    text += "\n";
  }
  return text;
}

std::string RenderJson(const BenchTable& table) {
  using Json = nlohmann::ordered_json;
  Json json = {{"title", table.title}, {"facts", Json::object()}, {"rows", Json::array()}};
  for (const auto& [name, value] : table.facts) json["facts"][name] = value;
  const auto number = [](double value) { return value > 0 ? Json(value) : Json(nullptr); };
  for (const BenchRow& row : table.rows) {
    json["rows"].push_back(
        {{"name", row.name},
         {"calls", row.calls},
         {"seconds", row.seconds},
         {"rate", number(row.rate)},
         {"limit", number(row.limit)},
         {"unit", row.unit},
         {"percent_of_limit", number(row.limit > 0 ? 100 * row.rate / row.limit : 0)},
         {"sm_clock_mhz", number(row.gauges.sm_clock_mhz)},
         {"power_watts", number(row.gauges.power_watts)}});
  }
  return json.dump(2) + "\n";
}

}  // namespace muster::launch
