// What watching over a run costs its steps, in processor time of the thread that trains: a real job
// of 1 to 4 ranks, each with 256 tokens a step. A busy machine lengthens none of it much.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/train/replica_check.h"
#include "runtime/train/step_breakdown.h"
#include "runtime/train/trainer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"
#include "tests/support/sanitizers.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

double OwnSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// The median of several runs, the first one aside.
template <typename Work>
double OwnSecondsOf(int times, Work work) {
  std::vector<double> seconds;
  for (int i = 0; i <= times; ++i) {
    const double begin = OwnSeconds();
    work(i);
    if (i > 0) seconds.push_back(OwnSeconds() - begin);
  }
  std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
  return seconds[static_cast<size_t>(times / 2)];
}

TEST(CheckCosts, OfAStepAreWithinTheirBars) {
  SKIP_UNDER_SANITIZERS("it slows our loops down, and not the libraries' of matrix products");
  const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const std::string batch =
      "train.global_batch_sequences=" + std::to_string(4 * TestWorld().size());
  ASSERT_TRUE(LoadJob(
      path,
      {"goodput.peak=0.1", "log.progress=false", "schedule.microbatches=1", "zero.level=0",
       "model.hidden=192", "model.ffn_hidden=768", "model.layers=4", "evaluate.sequences=4",
       "train.steps=100", "safety.replica_check_every=100", "safety.state_check_every=100", batch},
      TestWorld().size(), &job, &problems))
      << Describe(problems, path);
  const std::string directory = SharedTemporaryDirectory(TestWorld());
  auto trainer = Trainer::Create(
      job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const TrainingState& s = (*trainer)->state();

  const double step = OwnSecondsOf(9, [&](int i) { MUSTER_CHECK_OK((*trainer)->Step(i + 1)); });
  s.gather->Finish(s.compute());
  int64_t weight_bytes = 0;
  for (const parallel::Parameter& parameter : *s.parameters) {
    weight_bytes += parameter.weight.bytes();
  }
  const auto check = ReplicaCheck::Create(s, TestWorld(), 100);
  ASSERT_TRUE(check.ok()) << check.status();
  const double replicas = OwnSecondsOf(9, [&](int) {
    (*check)->Take();
    MUSTER_CHECK_OK(s.compute().Synchronize());
    const auto notes = TestWorld().GatherText((*check)->Note());
    MUSTER_CHECK_OK(notes.status());
    MUSTER_CHECK_OK((*check)->Hear(*notes));
  });
  const auto update = [&](bool digests) {
    return OwnSecondsOf(9, [&](int) {
      s.optimizer->Step(/*learning_rate=*/1e-9, /*update=*/100, s.clip->facts(), s.compute(),
                        digests);
    });
  };
  const double plain = update(false), with_digests = update(true);
  const double digests = with_digests - plain;
  const double norm = OwnSecondsOf(9, [&](int) { MUSTER_CHECK_OK(s.clip->Measure(s.compute())); });
  const std::vector<int64_t> times(parallel::kNumTimeCategories, 1'000'000);
  const double exchange = OwnSecondsOf(9, [&](int) {
    MUSTER_CHECK_OK(ShareBreakdown(times, {"", ""}, TestWorld()).status());
  });
  if (TestWorld().rank() == 0) {
    std::printf(
        "%d ranks, %.1f MB of weights, a step of %.1f ms of the thread's own: a comparison of "
        "replicas %.3f ms (%.2f %%), an update %.3f ms, with digests of the state %.3f ms (+%.2f "
        "%%), the gradient's norm %.3f ms (%.2f %%), the step's exchange %.3f ms (%.2f %%)\n",
        TestWorld().size(), static_cast<double>(weight_bytes) * 1e-6, step * 1e3, replicas * 1e3,
        100 * replicas / step, plain * 1e3, with_digests * 1e3, 100 * digests / step, norm * 1e3,
        100 * norm / step, exchange * 1e3, 100 * exchange / step);
  }
  // safety.replica_check_every: 100 costs at most half a percent, as does safety.state_check_every:
  // 100, of which two updates take digests; the norm, which tells whether all is finite, reads each
  // gradient once.
  EXPECT_LE(replicas / 100, 0.005 * step);
  EXPECT_LE(2 * digests / 100, 0.005 * step);
  EXPECT_LE(norm, 0.05 * step);
  EXPECT_LE(exchange, 0.05 * step);
  trainer->reset();
  MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace muster::runtime
