#pragma once
// What was probably meant by a name that does not exist: a config key, an enum value, a subcommand,
// a flag. Error messages end with it.
#include <string>
#include <string_view>
#include <vector>

namespace muster::runtime {

// Number of single-character insertions, deletions, replacements and swaps of neighbours that turn
// one name into the other (restricted Damerau-Levenshtein distance). Case is ignored.
int EditDistance(std::string_view a, std::string_view b);

// The name of least edit distance, the first of equals; empty if none is nearer than half of the
// longer name's length, because a far guess misleads.
std::string NearestName(std::string_view wanted, const std::vector<std::string>& names);

// " (did you mean 'x'?)", or nothing: to append to a message.
std::string DidYouMean(std::string_view wanted, const std::vector<std::string>& names);

}  // namespace muster::runtime
