// Rates of matrix products, grouped products and attention on CUDA device 0, in bf16 on random
// data, each against its ceiling: what the best library call reached on one H200 (TFLOP/s; causal
// attention counted half). Prints one line per case: median time of kRuns runs, TFLOP/s, percent.
//
//   build/gpu/matmul_bench [FILTER]     cases whose name contains FILTER
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "kernels/device/stream.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/grouped_matmul.h"
#include "kernels/ops/matmul.h"

namespace muster::kernels {
namespace {

constexpr Device kDevice = {DeviceType::kCuda, 0};
constexpr int kRuns = 15, kWarmups = 3;
constexpr DType kStorage = DType::kBFloat16;

// Runs cases on one stream and prints them.
class Bench {
 public:
  Bench(StreamView stream, std::string filter) : stream_(stream), filter_(std::move(filter)) {
    auto timeline = Timeline::Create(stream, /*num_categories=*/2);
    MUSTER_CHECK_OK(timeline.status());
    timeline_ = *std::move(timeline);
  }
  StreamView stream() const { return stream_; }
  bool Wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // A tensor on the device: zeros, or random.
  Tensor Zeros(DType dtype, Shape shape) const {
    auto tensor = Tensor::Allocate(dtype, shape, kDevice);
    MUSTER_CHECK_OK(tensor.status());
    return *std::move(tensor);
  }
  Tensor Random(Shape shape) const {
    Tensor tensor = Zeros(kStorage, shape);
    Shape begin = shape;
    for (int dim = 0; dim < shape.rank(); ++dim) begin.set(dim, 0);
    FillNormal({.x = tensor.view(),
                .global_shape = shape,
                .begin = begin,
                .key = MakePhiloxKey(static_cast<uint64_t>(shape.num_elements()), "bench"),
                .std = 1.0f},
               stream_);
    return tensor;
  }

  void Measure(const std::string& name, double flops, double ceiling,
               const std::function<void()>& run) {
    for (int i = 0; i < kWarmups; ++i) run();
    std::vector<double> seconds;
    for (int i = 0; i < kRuns; ++i) {
      MUSTER_CHECK_OK(timeline_->Collect().status());
      timeline_->Enter(1);
      run();
      timeline_->Enter(0);
      const auto ns = timeline_->Collect();
      MUSTER_CHECK_OK(ns.status());
      seconds.push_back(static_cast<double>((*ns)[1]) * 1e-9);
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2], rate = flops / median * 1e-12;
    std::printf("%-52s %10.1f us %7.1f TFLOP/s", name.c_str(), median * 1e6, rate);
    if (ceiling > 0) std::printf("  %5.1f %% of %.0f", rate / ceiling * 100, ceiling);
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  StreamView stream_;
  std::string filter_;
  std::unique_ptr<Timeline> timeline_;
};

// The three products of a linear layer with weight [n, k] on m tokens.
void BenchMatmul(Bench& bench, int64_t m, int64_t n, int64_t k, double ceiling) {
  const std::string shape =
      std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
  if (!bench.Wants("matmul " + shape)) return;
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const Tensor x = bench.Random({m, k}), w = bench.Random({n, k});
  // Rows start at multiples of 128 bytes, as those of models/output.h.
  const Tensor y_memory = bench.Random({m, (n + 63) / 64 * 64});
  const TensorView y = y_memory.view().Slice(1, 0, n);
  const Tensor d_x = bench.Random({m, k}), d_w = bench.Zeros(DType::kFloat32, {n, k});
  const StreamView stream = bench.stream();
  bench.Measure("matmul " + shape + " input gradient", flops, ceiling,
                [&] { Matmul({.a = y, .b = w.view(), .c = d_x.view()}, stream); });
  bench.Measure("matmul " + shape + " weight gradient", flops, ceiling, [&] {
    Matmul({.a = y, .b = x.view(), .c = d_w.view(), .a_transposed = true, .accumulate = true},
           stream);
  });
  bench.Measure("matmul " + shape + " forward", flops, ceiling, [&] {
    Matmul({.a = x.view(), .b = w.view(), .c = y, .b_transposed = true}, stream);
  });
}

void BenchGrouped(Bench& bench, int64_t experts, int64_t rows, int64_t n, int64_t k,
                  double ceiling) {
  const std::string shape = std::to_string(experts) + " experts " + std::to_string(rows) + " x " +
                            std::to_string(n) + " x " + std::to_string(k);
  if (!bench.Wants("grouped " + shape)) return;
  const double flops =
      2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
  const Tensor x = bench.Random({rows, k}), w = bench.Random({experts, n, k});
  const Tensor y = bench.Random({rows, n}), d_x = bench.Random({rows, k});
  const Tensor d_w = bench.Zeros(DType::kFloat32, {experts, n, k});
  // Uneven: every second expert has 3/4 of the mean, the others 5/4.
  auto host = Tensor::Allocate(DType::kInt64, {experts + 1});
  MUSTER_CHECK_OK(host.status());
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t mean = rows / experts;
    host->view().as<int64_t>()[e + 1] =
        host->view().as<int64_t>()[e] + (e % 2 == 0 ? mean - mean / 4 : mean + mean / 4);
  }
  const Tensor offsets = bench.Zeros(DType::kInt64, {experts + 1});
  CopyAsync(offsets.view(), host->view(), bench.stream());
  MUSTER_CHECK_OK(bench.stream().Synchronize());
  const StreamView stream = bench.stream();
  bench.Measure("grouped " + shape + " input gradient", flops, ceiling, [&] {
    GroupedMatmulBackwardInput(
        {.d_y = y.view(), .w = w.view(), .d_x = d_x.view(), .offsets = offsets.view()}, stream);
  });
  bench.Measure("grouped " + shape + " weight gradient", flops, ceiling, [&] {
    GroupedMatmulBackwardWeight(
        {.d_y = y.view(), .x = x.view(), .d_w = d_w.view(), .offsets = offsets.view()}, stream);
  });
  bench.Measure("grouped " + shape + " forward", flops, ceiling, [&] {
    GroupedMatmulForward({.x = x.view(), .w = w.view(), .y = y.view(), .offsets = offsets.view()},
                         stream);
  });
}

struct AttentionShape {
  int64_t batch, tokens, heads, kv_heads, channels;
  double forward_ceiling, backward_ceiling;
};

void BenchAttention(Bench& bench, const AttentionShape& s) {
  const std::string shape = "b" + std::to_string(s.batch) + " s" + std::to_string(s.tokens) + " h" +
                            std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " d" +
                            std::to_string(s.channels);
  if (!bench.Wants("attention " + shape)) return;
  const Tensor qkv = bench.Random({s.batch, s.tokens, s.heads + 2 * s.kv_heads, s.channels});
  const Tensor d_qkv = bench.Random(qkv.view().shape);
  const Shape out_shape = {s.batch, s.tokens, s.heads, s.channels};
  const Tensor out = bench.Random(out_shape), d_out = bench.Random(out_shape);
  const Tensor lse = bench.Zeros(DType::kFloat32, {s.batch, s.heads, s.tokens});
  const Tensor delta = bench.Zeros(DType::kFloat32, lse.view().shape);
  const auto q = [&](const Tensor& x) { return x.view().Slice(2, 0, s.heads); };
  const auto k = [&](const Tensor& x) { return x.view().Slice(2, s.heads, s.heads + s.kv_heads); };
  const auto v = [&](const Tensor& x) {
    return x.view().Slice(2, s.heads + s.kv_heads, s.heads + 2 * s.kv_heads);
  };
  const float scale = 0.088f;
  const double product = static_cast<double>(s.batch * s.heads * s.channels) *
                         static_cast<double>(s.tokens) * static_cast<double>(s.tokens);
  const StreamView stream = bench.stream();
  bench.Measure("attention " + shape + " forward", 2 * product, s.forward_ceiling, [&] {
    AttentionForward({.q = q(qkv),
                      .k = k(qkv),
                      .v = v(qkv),
                      .out = out.view(),
                      .lse = lse.view(),
                      .scale = scale},
                     stream);
  });
  bench.Measure("attention " + shape + " backward", 5 * product, s.backward_ceiling, [&] {
    AttentionBackward({.d_out = d_out.view(),
                       .q = q(qkv),
                       .k = k(qkv),
                       .v = v(qkv),
                       .out = out.view(),
                       .lse = lse.view(),
                       .d_q = q(d_qkv),
                       .d_k = k(d_qkv),
                       .d_v = v(d_qkv),
                       .delta = delta.view(),
                       .scale = scale},
                      stream);
  });
}

void Run(const std::string& filter) {
  auto stream = Stream::Create(kDevice, StreamMode::kQueue, "bench");
  MUSTER_CHECK_OK(stream.status());
  Bench bench(stream->view(), filter);
  std::printf("%s\n", ProductName(kDevice).c_str());
  BenchMatmul(bench, 8192, 8192, 8192, 762);
  BenchMatmul(bench, 16384, 4096, 4096, 694);
  BenchMatmul(bench, 16384, 14336, 4096, 757);
  BenchMatmul(bench, 16384, 28672, 4096, 688);
  BenchMatmul(bench, 16384, 4096, 14336, 668);
  BenchMatmul(bench, 16384, 2048, 2048, 562);
  BenchMatmul(bench, 16384, 2816, 2048, 543);
  BenchMatmul(bench, 16384, 2048, 1408, 489);
  BenchMatmul(bench, 8192, 128256, 4096, 697);
  BenchMatmul(bench, 16384, 50257, 768, 0);
  BenchMatmul(bench, 16384, 50304, 768, 0);
  BenchGrouped(bench, 64, 98304, 2816, 2048, 710);
  BenchGrouped(bench, 64, 98304, 2048, 1408, 580);
  BenchAttention(bench, {2, 8192, 32, 8, 128, 631, 501});
  BenchAttention(bench, {4, 4096, 32, 8, 128, 499, 418});
  BenchAttention(bench, {8, 2048, 32, 32, 64, 312, 254});
}

}  // namespace
}  // namespace muster::kernels

int main(int argc, char** argv) {
  if (muster::kernels::DeviceCount(muster::kernels::DeviceType::kCuda) == 0) {
    std::fprintf(stderr, "matmul_bench: no CUDA device here\n");
    return 1;
  }
  muster::kernels::Run(argc > 1 ? argv[1] : "");
  return 0;
}
