// Gradient reduction hides behind the backward, weight gather behind the next forward: by how much,
// arithmetic says. The link is slowed by an injected latency L that each message sleeps, so that
// with two ranks a reduce-scatter or all-gather of any bucket takes L.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "kernels/base/error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"
#include "tests/support/sanitizers.h"

namespace muster::runtime {
namespace {

constexpr double kLatencySeconds = 0.008;

struct Exposed {
  double seconds = 0;  // of data-parallel communication, a step
  size_t num_buckets = 0;
};

Exposed MeasureExposed(bool overlap) {
  const std::vector<std::string> overrides = {
      "model.hidden=256",
      "model.heads=4",
      "model.ffn_hidden=1024",
      "model.layers=6",
      "train.global_batch_sequences=16",
      "schedule.microbatches=1",
      "train.sequence_length=128",
      "communication.bucket_megabytes=3",
      std::string("communication.overlap=") + (overlap ? "true" : "false")};
  constexpr int64_t kSteps = 6;
  auto slow = parallel::World::Create({.injected_link = {.latency_us = kLatencySeconds * 1e6}});
  MUSTER_CHECK_OK(slow.status());
  const TrainingRun run = Train(**slow, "tiny-dense.textproto", overrides, kSteps);
  Exposed exposed{.num_buckets = run.num_buckets};
  std::vector<double> seconds;
  for (const StepMetrics& metrics : run.metrics) {
    if (metrics.step > 1) seconds.push_back(metrics.breakdown_seconds[parallel::kExposedDp]);
  }
  std::sort(seconds.begin(), seconds.end());
  exposed.seconds = seconds[seconds.size() / 2];
  return exposed;
}

TEST(Overlap, HidesWhatArithmeticSays) {
  SKIP_UNDER_SANITIZERS("bounds a time to 20 %");
  if (parallel::TestWorld().size() != 2) GTEST_SKIP() << "wants two ranks, one for each core";
  const Exposed off = MeasureExposed(false), on = MeasureExposed(true);
  // Without overlap every bucket's reduce-scatter and all-gather is exposed: at least L each, and
  // what the transfer itself takes. With it, only the reduction of the last bucket, which the end
  // of the backward fills, and the gather of the first that the forward reads: one of n each.
  const double link = 2 * kLatencySeconds * static_cast<double>(off.num_buckets);
  const double hideable = off.seconds * (1.0 - 1.0 / static_cast<double>(off.num_buckets));
  if (parallel::TestWorld().rank() == 0) {
    std::printf(
        "exposed dp: %.1f ms without overlap (the link alone: %.1f), %.1f ms with; hidden %.1f of "
        "%.1f ms that can be hidden (%zu buckets)\n",
        off.seconds * 1e3, link * 1e3, on.seconds * 1e3, (off.seconds - on.seconds) * 1e3,
        hideable * 1e3, off.num_buckets);
  }
  EXPECT_GE(off.num_buckets, 6u);
  EXPECT_LT(on.seconds, off.seconds);
  EXPECT_GE(off.seconds, 0.95 * link);
  EXPECT_NEAR(off.seconds - on.seconds, hideable, 0.2 * hideable);
}

}  // namespace
}  // namespace muster::runtime
