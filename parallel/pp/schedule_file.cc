#include "parallel/pp/schedule_file.h"

#include <charconv>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

// A whole number in front of `rest`, which it leaves behind; nullopt without digits or above what
// a schedule could need.
std::optional<int> TakeNumber(std::string_view& rest) {
  int value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  constexpr int kMost = 1 << 20;
  if (error != std::errc() || rest.front() == '-' || value >= kMost) return std::nullopt;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  return value;
}

std::optional<Action> ParseAction(std::string_view text) {
  static const std::map<char, Kind> kKinds = {{'F', Kind::kForward},
                                              {'B', Kind::kBackward},
                                              {'I', Kind::kBackwardInput},
                                              {'W', Kind::kBackwardWeight}};
  const auto kind = text.empty() ? kKinds.end() : kKinds.find(text.front());
  if (kind == kKinds.end()) return std::nullopt;
  text.remove_prefix(1);
  const std::optional<int> stage = text.empty() ? std::nullopt : TakeNumber(text);
  if (!stage || text.size() < 2 || text.front() != '.') return std::nullopt;
  text.remove_prefix(1);
  const std::optional<int> microbatch = TakeNumber(text);
  if (!microbatch || !text.empty()) return std::nullopt;
  return Action{kind->second, *stage, *microbatch};
}

}  // namespace

absl::StatusOr<Schedule> ParseSchedule(const std::string& text, const std::string& name) {
  std::map<int, std::vector<Action>> lists;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const auto bad = [&](const std::string& what) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", number, ": ", what));
    };
    std::istringstream words(line.substr(0, line.find('#')));
    std::string word;
    if (!(words >> word)) continue;
    std::string_view head = word;
    const std::optional<int> rank = TakeNumber(head);
    if (!rank || head != ":") {
      return bad("found \"" + word + "\", wanted a pipeline rank and a colon, as in \"0: F0.0\"");
    }
    while (words >> word) {
      const std::optional<Action> action = ParseAction(word);
      if (!action) {
        return bad("found \"" + word +
                   "\", wanted F, B, I or W with stage, dot and microbatch, as in \"F0.3\"");
      }
      lists[*rank].push_back(*action);
    }
  }
  if (lists.empty()) return absl::InvalidArgumentError(name + ": it holds no actions");
  Schedule schedule(static_cast<size_t>(lists.rbegin()->first) + 1);
  for (auto& [rank, actions] : lists) schedule[static_cast<size_t>(rank)] = std::move(actions);
  for (size_t rank = 0; rank < schedule.size(); ++rank) {
    if (schedule[rank].empty()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": rank ", rank, " has no list"));
    }
  }
  return schedule;
}

std::string FormatSchedule(const Schedule& schedule) {
  std::string text;
  for (size_t rank = 0; rank < schedule.size(); ++rank) {
    absl::StrAppend(&text, rank, ":");
    for (const Action& action : schedule[rank]) absl::StrAppend(&text, " ", ToString(action));
    text += '\n';
  }
  return text;
}

}  // namespace muster::parallel
