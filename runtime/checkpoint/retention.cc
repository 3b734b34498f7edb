#include "runtime/checkpoint/retention.h"

#include <algorithm>
#include <filesystem>

#include "kernels/base/error.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

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

bool IsLeftover(const std::string& name) {
  for (const std::string suffix : {".partial", ".removed"}) {
    if (name.size() > suffix.size() && name.ends_with(suffix) &&
        StepOfName(name.substr(0, name.size() - suffix.size())) >= 0) {
      return true;
    }
  }
  return false;
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

absl::Status RemoveLeftovers(const Disk& disk, const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, DirectoriesIn(directory));
  for (const std::string& name : names) {
    if (IsLeftover(name)) RETURN_IF_ERROR(disk.RemoveDirectory(directory + "/" + name));
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
