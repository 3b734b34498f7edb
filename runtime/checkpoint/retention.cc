#include "runtime/checkpoint/retention.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr char kSetAside[] = ".set_aside.attempt-";

// Names of the directories (no symlinks) in `directory`; none if nothing has its name.
absl::StatusOr<std::vector<std::string>> DirectoriesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  if (fs::symlink_status(directory, error).type() == fs::file_type::not_found) return names;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code unseen;
    const fs::file_type type = entry->symlink_status(unseen).type();
    if (type == fs::file_type::none) {
      return absl::UnavailableError("cannot look at " + entry->path().string() + ": " +
                                    unseen.message());
    }
    if (type == fs::file_type::directory) names.push_back(entry->path().filename().string());
  }
  if (error) return absl::UnavailableError("cannot list " + directory + ": " + error.message());
  return names;
}

struct Leftover {
  std::string of;    // "step-<n>", "weights"
  int attempt = -1;  // of the save; -1: not known
  bool removed = false;
};

// A number as std::to_string writes it.
bool ParseNumber(const std::string& text, int* number) {
  return absl::SimpleAtoi(text, number) && std::to_string(*number) == text;
}

// Of "<of>[.attempt-<a>].partial" or ".removed[-<i>]"; nullopt for any other name.
std::optional<Leftover> ParseLeftover(std::string name) {
  Leftover leftover;
  const size_t end = name.rfind('.');
  if (end == std::string::npos) return std::nullopt;
  const std::vector<std::string> ending = absl::StrSplit(name.substr(end), '-');
  int number = 0;
  leftover.removed = ending[0] == kRemoved && ending.size() <= 2 &&
                     (ending.size() == 1 || ParseNumber(ending[1], &number));
  if (!leftover.removed && name.substr(end) != ".partial") return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(name.substr(0, end), ".attempt-");
  if (parts.size() > 2 || (parts.size() == 2 && !ParseNumber(parts[1], &leftover.attempt))) {
    return std::nullopt;
  }
  leftover.of = parts[0];
  return leftover;
}

absl::Status RemoveLeftoversIf(const Disk& disk, const std::string& directory, int attempt,
                               const std::function<bool(const std::string& of)>& is_ours) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, DirectoriesIn(directory));
  for (const std::string& name : names) {
    absl::string_view published = name;
    if (absl::ConsumeSuffix(&published, kReplaced) && is_ours(std::string(published))) {
      RETURN_IF_ERROR(BringBack(disk, directory, std::string(published)));
    }
    const std::optional<Leftover> leftover = ParseLeftover(name);
    if (!leftover || !is_ours(leftover->of) || leftover->attempt > attempt) continue;
    const std::string path = directory + "/" + name;
    if (leftover->removed) {
      RemoveOrWarn(disk, path);
      continue;
    }
    const absl::Status retired = Retire(disk, directory, path, path.substr(0, path.rfind('.')));
    if (!absl::IsNotFound(retired)) RETURN_IF_ERROR(retired);  // else it was published meanwhile
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ListCheckpoints(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, DirectoriesIn(directory));
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    if (StepOfName(name) >= 0) steps.push_back(StepOfName(name));
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::Status RemoveOldCheckpoints(const Disk& disk, const std::string& directory, int64_t newest,
                                  int keep) {
  MUSTER_CHECK(keep >= 1) << "keep is " << keep;
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(directory));
  int kept = 0;
  for (const int64_t step : steps) {
    if (step > newest || ++kept <= keep) continue;
    const std::string path = directory + "/" + CheckpointName(step);
    RETURN_IF_ERROR(Retire(disk, directory, path, path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SetNewestAside(const Disk& disk, const std::string& directory,
                                           int attempt) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(directory));
  if (steps.empty()) return absl::NotFoundError("there is no checkpoint in " + directory);
  const std::string name = CheckpointName(steps.front());
  const std::string aside = absl::StrCat(name, kSetAside, attempt);
  RETURN_IF_ERROR(disk.Rename(directory + "/" + name, directory + "/" + aside));
  RETURN_IF_ERROR(disk.SyncDirectory(directory));
  return aside;
}

absl::StatusOr<int> LastSetAside(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, DirectoriesIn(directory));
  int last = -1;
  for (const std::string& name : names) {
    const size_t at = name.find(kSetAside);
    int attempt = -1;
    if (at != std::string::npos && StepOfName(name.substr(0, at)) >= 0 &&
        absl::SimpleAtoi(name.substr(at + sizeof(kSetAside) - 1), &attempt)) {
      last = std::max(last, attempt);
    }
  }
  return last;
}

absl::Status RemoveLeftovers(const Disk& disk, const std::string& directory, int attempt) {
  return RemoveLeftoversIf(disk, directory, attempt,
                           [](const std::string& of) { return StepOfName(of) >= 0; });
}

absl::Status RemoveLeftoversOf(const Disk& disk, const std::string& directory,
                               const std::string& name, int attempt) {
  return RemoveLeftoversIf(disk, directory, attempt,
                           [&](const std::string& of) { return of == name; });
}

}  // namespace muster::runtime
