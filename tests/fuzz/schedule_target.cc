// Pipeline schedules as text, and the check of what they say.
#include "kernels/base/error.h"
#include "parallel/pp/schedule_check.h"
#include "parallel/pp/schedule_file.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {

int Schedule(std::string_view bytes) {
  const auto schedule = parallel::ParseSchedule(std::string(bytes), "fuzz");
  if (!schedule.ok()) return 0;
  const auto again = parallel::ParseSchedule(parallel::FormatSchedule(*schedule), "again");
  MUSTER_CHECK_OK(again.status());
  MUSTER_CHECK(*again == *schedule);
  const auto facts = parallel::CheckSchedule(*schedule);
  if (!facts.ok()) return 0;
  // What was accepted can be drawn, and run as an evaluation, or says why not.
  MUSTER_CHECK(facts->starts.size() == schedule->size());
  if (schedule->size() <= 16) (void)parallel::DrawSchedule(*schedule, *facts, {});
  const int microbatches = parallel::NumMicrobatches(*schedule);
  (void)parallel::CheckBuffers(parallel::ForwardOnly(*schedule, microbatches), *facts).ok();
  return 0;
}

}  // namespace muster::fuzz
