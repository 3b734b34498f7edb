#include "parallel/mesh/axis_order.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

std::string ToString(const AxisOrder& order) {
  std::vector<std::string> names;
  for (const Axis axis : order) names.emplace_back(Name(axis));
  return absl::StrJoin(names, " ");
}

bool ParseAxisOrder(const std::string& text, AxisOrder* order, std::string* nearest) {
  std::vector<Axis> axes;
  const auto add = [&](Axis axis) {
    if (std::find(axes.begin(), axes.end(), axis) == axes.end()) axes.push_back(axis);
  };
  const std::vector<std::string> words =
      absl::StrSplit(text, absl::ByAnyChar(" ,-"), absl::SkipEmpty());
  for (const std::string& word : words) {
    for (const Axis axis : kDefaultOrder) {
      if (word == Name(axis)) add(axis);
    }
  }
  // All words were axes, and each another one.
  const bool legal = axes.size() == order->size() && words.size() == order->size();
  for (const Axis axis : kDefaultOrder) add(axis);
  std::copy(axes.begin(), axes.end(), order->begin());
  if (!legal) *nearest = ToString(*order);
  return legal;
}

}  // namespace muster::parallel
