// The memory-bound CUDA operators against the rate of a device copy measured in the same run:
//
//   build/gpu/ops_bench [part of a name]
//
// One line an operator and shape: milliseconds (median of 20 after 3 warm-ups), GB/s of the bytes
// that the operator must move, and that as a percentage of the copy rate. Random data; an
// operator's tensors are together several times as big as the caches.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/span.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/swiglu.h"
#include "kernels/ops/topk_route.h"
#include "tests/support/kernels/range_tables.h"

namespace muster::kernels {
namespace {

constexpr DType kBF16 = DType::kBFloat16, kF32 = DType::kFloat32, kI32 = DType::kInt32;
constexpr Device kDevice = {DeviceType::kCuda, 0};
constexpr int kWarmUps = 3, kRuns = 20;

class Bench {
 public:
  Bench(Stream stream, std::unique_ptr<Timeline> timeline, std::string filter)
      : stream_(std::move(stream)), timeline_(std::move(timeline)), filter_(std::move(filter)) {}
  StreamView stream() const { return stream_.view(); }

  TensorView Random(DType dtype, Shape shape) {
    const TensorView x = Zeroed(dtype, shape);
    Shape begin = shape;
    for (int dim = 0; dim < shape.rank(); ++dim) begin.set(dim, 0);
    FillNormal({.x = x,
                .global_shape = shape,
                .begin = begin,
                .key = {.lo = static_cast<uint32_t>(tensors_.size()), .hi = 1},
                .std = 1.0f},
               stream());
    return x;
  }
  TensorView Zeroed(DType dtype, Shape shape) {
    auto tensor = Tensor::Allocate(dtype, shape, kDevice);
    MUSTER_CHECK_OK(tensor.status());
    tensors_.push_back(*std::move(tensor));
    return tensors_.back().view();
  }
  // int32 values, index of the element -> value.
  TensorView Indices(Shape shape, const std::function<int64_t(int64_t)>& value) {
    auto host = Tensor::Allocate(kI32, shape);
    MUSTER_CHECK_OK(host.status());
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      host->view().as<int32_t>()[i] = static_cast<int32_t>(value(i));
    }
    const TensorView x = Zeroed(kI32, shape);
    CopyAsync(x, host->view(), stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return x;
  }
  void Release() {
    MUSTER_CHECK_OK(stream().Synchronize());
    tensors_.clear();
  }

  // Median GB/s of `run`, which must move `bytes`.
  double Rate(double bytes, const std::function<void()>& run, double& milliseconds) {
    std::vector<double> times;
    for (int i = 0; i < kWarmUps + kRuns; ++i) {
      MUSTER_CHECK_OK(timeline_->Collect().status());
      timeline_->Enter(1);
      run();
      timeline_->Enter(0);
      const auto spent = timeline_->Collect();
      MUSTER_CHECK_OK(spent.status());
      if (i >= kWarmUps) times.push_back(static_cast<double>((*spent)[1]));
    }
    std::sort(times.begin(), times.end());
    milliseconds = times[times.size() / 2] * 1e-6;
    return bytes / times[times.size() / 2];
  }
  void Measure(const std::string& name, double bytes, const std::function<void()>& run) {
    if (name.find(filter_) == std::string::npos) return;
    double milliseconds = 0;
    const double rate = Rate(bytes, run, milliseconds);
    std::printf("%-44s %9.3f ms %8.0f GB/s %6.1f %%\n", name.c_str(), milliseconds, rate,
                100 * rate / copy_rate_);
  }
  void MeasureCopy() {
    const int64_t bytes = int64_t{2} << 30;
    const TensorView from = Random(kF32, {bytes / 4}), to = Zeroed(kF32, {bytes / 4});
    double milliseconds = 0;
    copy_rate_ = Rate(
        2.0 * static_cast<double>(bytes), [&] { CopyAsync(to, from, stream()); }, milliseconds);
    std::printf("device copy of 2 GiB on %s: %.0f GB/s (read + write)\n",
                ProductName(kDevice).c_str(), copy_rate_);
    Release();
  }

 private:
  Stream stream_;
  std::unique_ptr<Timeline> timeline_;
  std::string filter_;
  std::vector<Tensor> tensors_;
  double copy_rate_ = 1;
};

void Norms(Bench& bench, int64_t tokens, int64_t dim) {
  const std::string shape = " bf16 " + std::to_string(tokens) + " x " + std::to_string(dim);
  const double bytes = 2.0 * static_cast<double>(tokens * dim);
  const TensorView x = bench.Random(kBF16, {tokens, dim}), y = bench.Random(kBF16, {tokens, dim});
  const TensorView residual = bench.Random(kBF16, {tokens, dim});
  const TensorView h = bench.Random(kBF16, {tokens, dim});
  const TensorView weight = bench.Random(kBF16, {dim}), d_weight = bench.Random(kF32, {dim});
  const TensorView d_bias = bench.Random(kF32, {dim});
  const TensorView mean = bench.Zeroed(kF32, {tokens}), rstd = bench.Zeroed(kF32, {tokens});
  const StreamView stream = bench.stream();
  bench.Measure("RmsNormForward+residual" + shape, 4 * bytes, [&] {
    RmsNormForward({x, residual, weight, h, y, rstd}, stream);
  });
  bench.Measure("RmsNormBackward+residual" + shape, 4 * bytes, [&] {
    RmsNormBackward({y, h, weight, rstd, residual, x, d_weight}, stream);
  });
  bench.Measure("LayerNormForward+residual" + shape, 4 * bytes, [&] {
    LayerNormForward({x, residual, weight, weight, h, y, mean, rstd}, stream);
  });
  bench.Measure("LayerNormBackward+residual" + shape, 4 * bytes, [&] {
    LayerNormBackward({y, h, weight, mean, rstd, residual, x, d_weight, d_bias}, stream);
  });
  bench.Measure("Add" + shape, 3 * bytes, [&] { Add({x, h, y}, stream); });
  bench.Measure("ColumnSum" + shape, bytes, [&] { ColumnSum({x, d_weight}, stream); });
  bench.Release();
}

void Activations(Bench& bench, int64_t rows, int64_t size) {
  const std::string shape = " bf16 " + std::to_string(rows) + " x " + std::to_string(size);
  const double bytes = 2.0 * static_cast<double>(rows * size);
  const TensorView gate_up = bench.Random(kBF16, {rows, 2 * size});
  const TensorView d_gate_up = bench.Random(kBF16, {rows, 2 * size});
  const TensorView out = bench.Random(kBF16, {rows, size});
  const TensorView x = bench.Random(kBF16, {rows, size});
  const TensorView weight = bench.Random(kF32, {rows}), d_weight = bench.Random(kF32, {rows});
  const TensorView d_bias = bench.Random(kF32, {size});
  const StreamView stream = bench.stream();
  bench.Measure("SwiGluForward" + shape, 3 * bytes, [&] {
    SwiGluForward({gate_up, weight, {}, out}, stream);
  });
  bench.Measure("SwiGluBackward" + shape, 5 * bytes, [&] {
    SwiGluBackward({out, gate_up, weight, {}, d_gate_up, d_weight}, stream);
  });
  bench.Measure("GeluForward" + shape, 2 * bytes, [&] { GeluForward({x, {}, {}, out}, stream); });
  bench.Measure("GeluBackward" + shape, 3 * bytes, [&] {
    GeluBackward({out, x, {}, {}, x, {}}, stream);
  });
  bench.Measure("GeluBackward+bias" + shape, 3 * bytes,
                [&] { GeluBackward({.d_out = out, .x = x, .d_x = x, .d_bias = d_bias}, stream); });
  bench.Measure("ColumnSum" + shape, bytes, [&] { ColumnSum({out, d_bias}, stream); });
  bench.Release();
}

void Tokens(Bench& bench, int64_t tokens, int64_t dim, int64_t vocabulary) {
  const std::string shape = " bf16 " + std::to_string(tokens) + " x ";
  const double row_bytes = 2.0 * static_cast<double>(tokens * dim);
  const double logit_bytes = 2.0 * static_cast<double>(tokens * vocabulary);
  const TensorView logits = bench.Random(kBF16, {tokens, vocabulary});
  // Squares of uniform values: frequent and rare tokens, as in text.
  const TensorView ids = bench.Indices({tokens}, [&](int64_t i) {
    const float u = UniformFromBits(Philox({.lo = 1, .hi = 2}, static_cast<uint64_t>(i)).v[0]);
    return static_cast<int64_t>(u * u * static_cast<float>(vocabulary));
  });
  const TensorView positions = bench.Indices({tokens}, [](int64_t i) { return i % 4096; });
  const TensorView stats = bench.Zeroed(kF32, {tokens, 3});
  const TensorView table = bench.Random(kBF16, {vocabulary, dim});
  const TensorView d_table = bench.Random(kF32, {vocabulary, dim});
  const TensorView x = bench.Random(kBF16, {tokens, dim});
  const TensorView heads = x.Reshape({tokens, dim / 128, 128});
  const TensorView angles = bench.Zeroed(kF32, {4096, 64, 2});
  const StreamView stream = bench.stream();
  RopeTable({angles, 500000.0}, stream);
  bench.Measure("Rope" + shape + std::to_string(dim), 2 * row_bytes, [&] {
    Rope({heads, positions, angles}, stream);
  });
  bench.Measure("EmbeddingForward" + shape + std::to_string(dim), 2 * row_bytes,
                [&] { EmbeddingForward({.tokens = ids, .table = table, .out = x}, stream); });
  // At least: d_out once. Rows of the table, 8 bytes an element, depend on the repetitions.
  bench.Measure("EmbeddingBackward (d_out only)" + shape + std::to_string(dim), row_bytes, [&] {
    EmbeddingBackward({x, ids, d_table}, stream);
  });
  const TensorView same_ids = bench.Indices({tokens}, [](int64_t) { return 7; });
  bench.Measure("EmbeddingBackward of one token" + shape + std::to_string(dim), row_bytes, [&] {
    EmbeddingBackward({x, same_ids, d_table}, stream);
  });
  bench.Measure("CrossEntropyStats" + shape + std::to_string(vocabulary), logit_bytes, [&] {
    CrossEntropyStats({logits, ids, stats}, stream);
  });
  bench.Measure("CrossEntropyBackward" + shape + std::to_string(vocabulary), 2 * logit_bytes, [&] {
    CrossEntropyBackward({logits, ids, stats}, stream);
  });
  bench.Release();
}

void Flat(Bench& bench, int64_t size) {
  const std::string shape = " " + std::to_string(size);
  const double n = static_cast<double>(size);
  const TensorView grad = bench.Random(kF32, {size}), master = bench.Random(kF32, {size});
  const TensorView moment1 = bench.Random(kF32, {size}), moment2 = bench.Zeroed(kF32, {size});
  const TensorView weight = bench.Zeroed(kBF16, {size}), scale = bench.Zeroed(kF32, {1});
  const TensorView sum = bench.Zeroed(DType::kFloat64, {1});
  const StreamView stream = bench.stream();
  Fill({scale, 1.0}, stream);
  // As one parameter, and as a model's: a matrix, then two vectors, and so on.
  for (const int64_t num_ranges : {1, 900}) {
    std::vector<int64_t> ends = {0};
    std::vector<float> decays;
    for (int64_t i = 0; i < num_ranges; i += 3) {
      const int64_t end = (i + 3 < num_ranges ? (i + 3) * size / num_ranges : size) / 64 * 64;
      for (const int64_t vector : {3200, 1600}) {
        if (num_ranges > 1) ends.push_back(end - vector);
      }
      ends.push_back(end);
    }
    decays.resize(ends.size(), 0.1f);
    const OwnedTable<AdamWRange> ranges(
        AdamWTensors{grad, master, moment1, moment2, weight}.Ranges(ends, decays), stream);
    const OwnedTable<SquaresRange> squares(SquaresRanges(grad, ends), stream);
    const std::string cut = num_ranges > 1 ? " in " + std::to_string(num_ranges) + " ranges" : "";
    bench.Measure("AdamW fp32+bf16" + shape + cut, 30 * n, [&] {
      AdamW({.table = ranges.table,
             .weight_dtype = kBF16,
             .grad_scale = scale,
             .learning_rate = 1e-4f},
            stream);
    });
    const auto digests_of = static_cast<int64_t>(ends.size()) - 1;
    const TensorView digests = bench.Zeroed(DType::kInt64, {digests_of, 2});
    bench.Measure("AdamW fp32+bf16 with digests" + shape + cut, 32 * n, [&] {
      AdamW({.table = ranges.table,
             .weight_dtype = kBF16,
             .grad_scale = scale,
             .learning_rate = 1e-4f,
             .digests = digests},
            stream);
    });
    std::vector<DigestRange> parts;
    for (size_t i = 0; i + 1 < ends.size(); ++i) parts.push_back({ends[i], ends[i + 1] - ends[i]});
    const OwnedTable<DigestRange> to_digest(parts, stream);
    const TensorView sums = bench.Zeroed(DType::kInt64, {digests_of});
    for (const TensorView& x : {weight, grad}) {
      bench.Measure(std::string("Digest ") + Name(x.dtype) + shape + cut,
                    static_cast<double>(x.bytes()), [&] {
                      Digest({x, to_digest.table, sums}, stream);
                    });
    }
    bench.Measure("SumOfSquares fp32" + shape + cut, 4 * n, [&] {
      SumOfSquares({squares.table, kF32, sum}, stream);
    });
    MUSTER_CHECK_OK(stream.Synchronize());
  }
  bench.Measure("SumSlices fp32 4 x" + shape, 5 * n, [&] {
    SumSlices({grad.Reshape({4, size / 4}), master.Slice(0, 0, size / 4)}, stream);
  });
  bench.Measure("Cast fp32 to bf16" + shape, 6 * n, [&] { Cast({grad, weight}, stream); });
  bench.Release();
}

void Experts(Bench& bench, int64_t tokens, int64_t dim, int64_t num_experts, int top_k) {
  const std::string shape = " " + std::to_string(tokens) + " x " + std::to_string(num_experts) +
                            " top " + std::to_string(top_k);
  const RouterOptions options{.top_k = top_k, .aux_coefficient = 0.01f};
  const Shape chosen{tokens, top_k};
  const TensorView logits = bench.Random(kF32, {tokens, num_experts});
  const TensorView scores = bench.Zeroed(kF32, {tokens, num_experts});
  const TensorView d_logits = bench.Zeroed(kF32, {tokens, num_experts});
  const TensorView experts = bench.Zeroed(kI32, chosen), rows = bench.Zeroed(kI32, chosen);
  const TensorView weights = bench.Random(kF32, chosen);
  const TensorView counts = bench.Zeroed(DType::kInt64, {num_experts});
  const TensorView offsets = bench.Zeroed(DType::kInt64, {num_experts + 1});
  const TensorView dropped = bench.Zeroed(DType::kInt64, {1});
  const TensorView losses = bench.Zeroed(DType::kFloat64, {2});
  const TensorView x = bench.Random(kBF16, {tokens, dim});
  const TensorView by_expert = bench.Random(kBF16, {tokens * top_k, dim});
  const StreamView stream = bench.stream();
  const double score_bytes = 4.0 * static_cast<double>(tokens * num_experts);
  const double row_bytes = 2.0 * static_cast<double>(tokens * dim) * (1 + top_k);
  TopkRouteForward({logits, {}, scores, experts, weights, options}, stream);
  SortByExpert({experts, rows, counts, offsets, dropped}, stream);
  bench.Measure("TopkRouteForward" + shape, 2 * score_bytes, [&] {
    TopkRouteForward({logits, {}, scores, experts, weights, options}, stream);
  });
  bench.Measure("TopkRouteBackward" + shape, 3 * score_bytes, [&] {
    TopkRouteBackward({.logits = logits,
                       .scores = scores,
                       .experts = experts,
                       .d_weights = weights,
                       .d_logits = d_logits,
                       .losses = losses,
                       .group_tokens = tokens,
                       .options = options},
                      stream);
  });
  bench.Measure("SortByExpert" + shape, 12.0 * static_cast<double>(tokens * top_k), [&] {
    SortByExpert({experts, rows, counts, offsets, dropped}, stream);
  });
  bench.Measure("DispatchRows bf16 " + std::to_string(dim) + shape, row_bytes, [&] {
    DispatchRows({x, rows, by_expert}, stream);
  });
  bench.Measure("CombineRows bf16 " + std::to_string(dim) + shape, row_bytes, [&] {
    CombineRows({by_expert, rows, x}, stream);
  });
  bench.Release();
}

int Main(const std::string& filter) {
  if (DeviceCount(DeviceType::kCuda) == 0) {
    std::fprintf(stderr, "ops_bench: no CUDA device here\n");
    return 1;
  }
  auto stream = Stream::Create(kDevice, StreamMode::kQueue, "bench");
  MUSTER_CHECK_OK(stream.status());
  auto timeline = Timeline::Create(stream->view(), /*num_categories=*/2, /*max_marks=*/8);
  MUSTER_CHECK_OK(timeline.status());
  Bench bench(*std::move(stream), *std::move(timeline), filter);
  bench.MeasureCopy();
  Norms(bench, 65536, 4096);
  Norms(bench, 131072, 2048);
  Norms(bench, 8192, 4096);
  Norms(bench, 32768, 2048);
  Norms(bench, 16384, 1600);
  Norms(bench, 65536, 768);
  Activations(bench, 32768, 14336);
  Activations(bench, 196608, 1408);
  Activations(bench, 16384, 6400);
  Activations(bench, 16384, 4800);
  Tokens(bench, 16384, 4096, 128256);
  Tokens(bench, 65536, 1536, 50257);
  Flat(bench, int64_t{1} << 28);
  Experts(bench, 65536, 2048, 64, 6);
  Experts(bench, 32768, 4096, 256, 8);
  return 0;
}

}  // namespace
}  // namespace muster::kernels

int main(int argc, char** argv) { return muster::kernels::Main(argc > 1 ? argv[1] : ""); }
