#include "runtime/job/nearest_name.h"

#include <algorithm>

namespace muster::runtime {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool SameLetter(char a, char b) { return Lower(a) == Lower(b); }

}  // namespace

int EditDistance(std::string_view a, std::string_view b) {
  // Three rows of the table: distances of prefixes of a (rows) and of b (columns).
  std::vector<int> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replace = above[j - 1] + (SameLetter(a[i - 1], b[j - 1]) ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replace});
      if (i > 1 && j > 1 && SameLetter(a[i - 1], b[j - 2]) && SameLetter(a[i - 2], b[j - 1])) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

std::string NearestName(std::string_view wanted, const std::vector<std::string>& names) {
  const std::string* nearest = nullptr;
  int least = 0;
  for (const std::string& name : names) {
    const int longer = static_cast<int>(std::max(wanted.size(), name.size()));
    // A distance is at least the difference in length.
    const int at_least = 2 * longer - static_cast<int>(wanted.size() + name.size());
    if (2 * at_least > longer || (nearest != nullptr && at_least >= least)) continue;
    const int distance = EditDistance(wanted, name);
    if (2 * distance <= longer && (nearest == nullptr || distance < least)) {
      nearest = &name;
      least = distance;
    }
  }
  return nearest == nullptr ? "" : *nearest;
}

std::string DidYouMean(std::string_view wanted, const std::vector<std::string>& names) {
  const std::string nearest = NearestName(wanted, names);
  return nearest.empty() ? "" : " (did you mean '" + nearest + "'?)";
}

}  // namespace muster::runtime
