// What a step pays for being dispatched, marked and booked, against the arithmetic it does: one
// sequence of 512 tokens through 8 layers of 512, on one thread.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "kernels/device/span.h"
#include "kernels/ops/matmul_rate.h"
#include "kernels/ops/reduce.h"
#include "kernels/tensor/tensor.h"
#include "models/config.h"
#include "models/cost.h"
#include "runtime/goodput/ledger.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

// Generous counts for the step above: some 35 operators, 6 spans and 12 events a layer.
constexpr int kOps = 8 * 40 + 40, kSpans = 8 * 6 + 20, kEvents = 8 * 12;

// Best of several batches: what it costs, not what else the machine does meanwhile.
template <typename Work>
double SecondsEach(Work work) {
  double best = 1e9;
  for (int batch = 0; batch < 20; ++batch) {
    constexpr int kRepeats = 200;
    const int64_t begin = kernels::MonotonicNs();
    for (int i = 0; i < kRepeats; ++i) work(i);
    best = std::min(best, static_cast<double>(kernels::MonotonicNs() - begin) * 1e-9 / kRepeats);
  }
  return best;
}

TEST(StepOverhead, OfDispatchEventsAndLedgerIsBelowThreePercent) {
  auto stream = kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
  ASSERT_TRUE(stream.ok());
  const kernels::StreamView compute = stream->view();
  auto timeline = kernels::Timeline::Create(compute, parallel::kNumTimeCategories, 1 << 20);
  auto event = kernels::Event::Create({});
  auto tensor = kernels::Tensor::Allocate(kernels::DType::kFloat32, {1});
  ASSERT_TRUE(timeline.ok() && event.ok() && tensor.ok());
  const ScratchDirectory directory;
  auto ledger = LedgerWriter::Create(directory.path(), {});
  ASSERT_TRUE(ledger.ok()) << ledger.status();

  const kernels::AddArgs add{.a = tensor->view(), .b = tensor->view(), .out = tensor->view()};
  const double op = SecondsEach([&](int) { kernels::Add(add, compute); });
  const double span =
      SecondsEach([&](int) { const kernels::Span mark(compute, "span", parallel::kOptimizer); });
  const double record = SecondsEach([&](int) {
    compute.Record(event->view());
    compute.Wait(event->view());
  });
  const double booked = SecondsEach([&](int i) {
    (*ledger)->StepBegin(i);
    (*ledger)->StepEnded({.step = i});
  });

  models::ModelConfig config;
  config.set_vocab_size(4096);
  config.set_hidden(512);
  config.set_layers(8);
  config.set_heads(8);
  config.set_ffn_hidden(1536);
  config.set_max_positions(512);
  models::FillDefaults(&config);
  auto rate = kernels::MeasureMatmulRate({}, kernels::DType::kFloat32, 1);
  ASSERT_TRUE(rate.ok());
  const double step = models::CostOf(config, 512).flops_per_token() * 512 / *rate;  // at 100 % MFU
  const double overhead = kOps * op + kSpans * span + kEvents * record + booked;
  std::printf(
      "an operator %.0f ns, a span %.0f ns, record and wait %.0f ns, a step's records %.1f "
      "us: %.3f ms of a step of at least %.0f ms (%.3f %%)\n",
      op * 1e9, span * 1e9, record * 1e9, booked * 1e6, overhead * 1e3, step * 1e3,
      100 * overhead / step);
  EXPECT_LE(overhead, 0.03 * step);
}

}  // namespace
}  // namespace muster::runtime
