#pragma once
// In which order the dense axes count the ranks of the world, innermost first: ranks that differ
// along the first axis only are neighbours. What talks most belongs inside, within a host.
#include <array>
#include <string>

namespace muster::parallel {

enum class Axis;

using AxisOrder = std::array<Axis, 4>;  // each of kTensor, kContext, kData, kPipeline once

// "tp cp dp pp"
std::string ToString(const AxisOrder& order);
// From such a text, words apart by spaces, commas or dashes. False: `nearest` is what the text
// seems to mean: its words that are axes, each once, then those it leaves out, in the default
// order.
bool ParseAxisOrder(const std::string& text, AxisOrder* order, std::string* nearest);

}  // namespace muster::parallel
