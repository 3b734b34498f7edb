#include "runtime/checkpoint/retention.h"

#include <algorithm>
#include <filesystem>
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

// Names of the directories (no symlinks) in `directory`.
absl::StatusOr<std::vector<std::string>> DirectoriesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::exists(directory, error)) return names;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code gone;
    if (entry->symlink_status(gone).type() == fs::file_type::directory) {
      names.push_back(entry->path().filename().string());
    }
  }
  if (error) return absl::UnavailableError("cannot list " + directory + ": " + error.message());
  return names;
}

struct Leftover {
  int attempt = -1;  // of the save; -1: not known
  bool removed = false;
};

// Of "step-<n>[.attempt-<a>].partial" or ".removed"; nullopt for any other name.
std::optional<Leftover> ParseLeftover(absl::string_view name) {
  Leftover leftover;
  leftover.removed = absl::ConsumeSuffix(&name, ".removed");
  if (!leftover.removed && !absl::ConsumeSuffix(&name, ".partial")) return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(name, ".attempt-");
  if (parts.size() > 2 || StepOfName(parts[0]) < 0) return std::nullopt;
  if (parts.size() == 2 && (!absl::SimpleAtoi(parts[1], &leftover.attempt) ||
                            std::to_string(leftover.attempt) != parts[1])) {
    return std::nullopt;
  }
  return leftover;
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
    RETURN_IF_ERROR(disk.RemoveDirectory(path + ".removed"));
    RETURN_IF_ERROR(disk.Rename(path, path + ".removed"));
    RETURN_IF_ERROR(disk.SyncDirectory(directory));
    RETURN_IF_ERROR(disk.RemoveDirectory(path + ".removed"));
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
  ASSIGN_OR_RETURN(const std::vector<std::string> names, DirectoriesIn(directory));
  for (const std::string& name : names) {
    absl::string_view checkpoint = name;
    if (absl::ConsumeSuffix(&checkpoint, kReplaced) && StepOfName(std::string(checkpoint)) >= 0) {
      RETURN_IF_ERROR(BringBack(disk, directory, std::string(checkpoint)));
    }
    const std::optional<Leftover> leftover = ParseLeftover(name);
    if (!leftover || leftover->attempt > attempt) continue;
    std::string path = directory + "/" + name;
    if (!leftover->removed) {
      const std::string removed = path.substr(0, path.rfind('.')) + ".removed";
      RETURN_IF_ERROR(disk.RemoveDirectory(removed));
      const absl::Status renamed = disk.Rename(path, removed);
      if (absl::IsNotFound(renamed)) continue;  // it was published meanwhile
      RETURN_IF_ERROR(renamed);
      path = removed;
    }
    RETURN_IF_ERROR(disk.RemoveDirectory(path));
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
