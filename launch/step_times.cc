#include "launch/step_times.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::launch {

using runtime::kStepsRemembered;

absl::StatusOr<std::unique_ptr<StepTimesFile>> StepTimesFile::Create(const std::string& path) {
  auto file = runtime::AppendFile::Open(path, runtime::AppendFile::Start::kEmpty);
  if (!file.ok()) return kernels::Annotate(file.status(), "--step-times");
  (*file)->Append("attempt,rank,step,even_us,uneven_us,uneven_rows\n");
  return std::unique_ptr<StepTimesFile>(new StepTimesFile(*std::move(file)));
}

void StepTimesFile::See(const runtime::RankEvent& event) {
  if (event.kind != runtime::RankEvent::Kind::kFrame) return;
  const runtime::Frame& frame = event.frame;
  int64_t& written = written_[{frame.attempt, frame.rank}];
  std::string lines;
  const int64_t oldest = frame.steps_done - static_cast<int64_t>(kStepsRemembered) + 1;
  for (int64_t step = std::max(written + 1, oldest); step <= frame.steps_done; ++step) {
    const runtime::StepWork& work = frame.work[static_cast<size_t>(step) % kStepsRemembered];
    absl::StrAppend(&lines, frame.attempt, ",", frame.rank, ",", step, ",", work.even_ns / 1'000,
                    ",", work.uneven_ns / 1'000, ",", work.uneven_rows, "\n");
  }
  if (!lines.empty()) file_->Append(lines);
  written = std::max(written, frame.steps_done);
}

}  // namespace muster::launch
