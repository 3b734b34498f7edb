#include "launch/step_times.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace muster::launch {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(StepTimesFile, HasEachStepOnceHoweverOftenFramesTellIt) {
  char pattern[] = "/tmp/muster_step_times_XXXXXX";
  const std::string directory = mkdtemp(pattern);
  const std::string path = directory + "/times.csv";
  const auto file = StepTimesFile::Create(path);
  ASSERT_TRUE(file.ok()) << file.status();
  runtime::RankProgress progress;
  runtime::StepEnd end;
  runtime::RankEvent event;
  event.frame.rank = 1;
  for (int64_t step = 1; step <= 40; ++step) {
    end.time_ns[parallel::kCompute] = step * 1'000'000;
    progress.NoteUneven(1'000'000, step);
    progress.StepEnded(end);
    // Two frames behind each of the first three, then none before the last.
    event.frame.steps_done = step;
    event.frame.work = progress.facts().work;
    for (int i = 0; i < (step <= 3 ? 2 : step == 40 ? 1 : 0); ++i) (*file)->See(event);
  }
  std::string wanted = "attempt,rank,step,even_us,uneven_us,uneven_rows\n";
  for (int step = 1; step <= 40; ++step) {
    if (step > 3 && step <= 40 - static_cast<int>(runtime::kStepsRemembered)) continue;  // lost
    const std::string n = std::to_string(step);
    wanted += "0,1," + n + "," + std::to_string((step - 1) * 1'000) + ",1000," + n + "\n";
  }
  EXPECT_EQ(ReadWhole(path), wanted);
  std::filesystem::remove_all(directory);
}

TEST(StepTimesFile, SaysThatItCannotBeWritten) {
  const auto file = StepTimesFile::Create("/no/such/folder/times.csv");
  EXPECT_TRUE(absl::IsNotFound(file.status())) << file.status();
  EXPECT_NE(file.status().message().find("/no/such/folder/times.csv"), std::string::npos);
}

}  // namespace
}  // namespace muster::launch
