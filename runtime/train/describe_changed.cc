#include "runtime/train/describe_changed.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::runtime {

std::string DescribeChanged(const std::vector<std::string>& names,
                            const std::vector<int64_t>& before, const std::vector<int64_t>& now) {
  MUSTER_CHECK(names.size() == before.size() && names.size() == now.size());
  constexpr int kMostNamed = 3;
  std::string text;
  int num_changed = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    if (before[i] == now[i] || ++num_changed > kMostNamed) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", names[i]);
  }
  if (num_changed > kMostNamed) absl::StrAppend(&text, " and ", num_changed - kMostNamed, " more");
  return text;
}

}  // namespace muster::runtime
