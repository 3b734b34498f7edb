#pragma once
// Numbers as people read them, the same in the progress line and in the report.
#include <cstdint>
#include <string>

namespace muster::runtime {

std::string Fixed(double value, int digits);                 // "3.412"; "nan", "inf", "-inf"
std::string WithThousands(int64_t value);                    // "41,210"
std::string WithThousands(double value, int digits);         // "41,210.5"
std::string Scientific(double value, int digits);            // "3.0e-4": no padded exponent
std::string DurationText(double seconds);                    // "0.52 s", "3 min 05 s", "2 h 07 min"
std::string PadLeft(const std::string& text, size_t width);  // spaces in front
std::string PadRight(const std::string& text, size_t width);  // spaces behind

}  // namespace muster::runtime
