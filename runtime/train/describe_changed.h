#pragma once
// In words, which of many digests differ.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

// Pure: the names, in their order, whose digests differ, and how many more than the first few;
// empty if all are equal.
std::string DescribeChanged(const std::vector<std::string>& names,
                            const std::vector<int64_t>& before, const std::vector<int64_t>& now);

}  // namespace muster::runtime
