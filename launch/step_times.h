#pragma once
// A file of what each rank worked in each step, as its heartbeats say: what the search for slow
// ranks sees (runtime/fault/straggler.h). CSV with a header:
//   attempt,rank,step,even_us,uneven_us,uneven_rows
// where `step` counts those of the attempt, from 1. A step is missing for a rank if so many ended
// between two beats that a frame does not hold them.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "runtime/fault/heartbeat_server.h"
#include "runtime/job/append_file.h"

namespace muster::launch {

class StepTimesFile {
 public:
  // Errors: the file cannot be made.
  static absl::StatusOr<std::unique_ptr<StepTimesFile>> Create(const std::string& path);
  void See(const runtime::RankEvent& event);

 private:
  explicit StepTimesFile(std::unique_ptr<runtime::AppendFile> file) : file_(std::move(file)) {}
  const std::unique_ptr<runtime::AppendFile> file_;
  std::map<std::pair<int, int>, int64_t> written_;  // of (attempt, rank): the last step
};

}  // namespace muster::launch
