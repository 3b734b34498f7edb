#pragma once
// SHA-256 of a text, as 64 lower-case hexadecimal digits: says which source a data set was made
// from in a form that other tools can check.
#include <string>
#include <string_view>

namespace muster::runtime {

std::string Sha256(std::string_view bytes);

}  // namespace muster::runtime
