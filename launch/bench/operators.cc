#include "launch/bench/operators.h"

#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/ops/op_work.h"
#include "launch/bench/stopwatch.h"

namespace muster::launch {
namespace {

using kernels::Device;
using kernels::DeviceType;
using kernels::DType;
using kernels::TensorView;

class OperatorBench {
 public:
  static absl::StatusOr<OperatorBench> Create(const std::string& title, Device device,
                                              DType dtype) {
    OperatorBench bench;
    bench.dtype_ = dtype;
    ASSIGN_OR_RETURN(bench.ceilings_, MeasureCeilings(device, dtype));
    ASSIGN_OR_RETURN(bench.watch_, Stopwatch::Create(device));
    bench.table_.title = title;
    bench.table_.facts = {{"device", DeviceText(device)},
                          {"dtype", kernels::Name(dtype)},
                          {"ceilings", CeilingText(bench.ceilings_, device)},
                          {"limit", "the products' ceiling"}};
    return bench;
  }

  template <typename Args>
  absl::Status Add(const std::string& name, const Args& args,
                   void (*op)(const Args&, kernels::StreamView)) {
    ASSIGN_OR_RETURN(const double seconds, watch_->Median([&] { op(args, watch_->stream()); }));
    table_.rows.push_back({.name = name,
                           .seconds = seconds,
                           .rate = kernels::WorkOf(args).flops / seconds * 1e-12,
                           .limit = ceilings_.matmul_flops * 1e-12,
                           .unit = "TFLOP/s",
                           .gauges = watch_->gauges()});
    return absl::OkStatus();
  }
  Stopwatch& watch() { return *watch_; }
  DType dtype() const { return dtype_; }
  BenchTable&& table() { return std::move(table_); }

 private:
  DType dtype_ = DType::kFloat32;
  Ceilings ceilings_;
  std::unique_ptr<Stopwatch> watch_;
  BenchTable table_;
};

absl::Status AddGemms(const GemmShape& shape, OperatorBench& bench) {
  const auto [m, n, k] = shape;
  const std::string name = absl::StrCat(m, " x ", n, " x ", k);
  Stopwatch& watch = bench.watch();
  const DType dtype = bench.dtype();
  ASSIGN_OR_RETURN(const TensorView x, watch.Random(dtype, {m, k}));
  ASSIGN_OR_RETURN(const TensorView w, watch.Random(dtype, {n, k}));
  ASSIGN_OR_RETURN(const TensorView y, watch.Random(dtype, {m, n}));
  ASSIGN_OR_RETURN(const TensorView d_x, watch.Zeros(dtype, {m, k}));
  ASSIGN_OR_RETURN(const TensorView d_w, watch.Zeros(kernels::AccumulatorDType(dtype), {n, k}));
  using Args = kernels::MatmulArgs;
  RETURN_IF_ERROR(
      bench.Add(name + " input gradient", Args{.a = y, .b = w, .c = d_x}, &kernels::Matmul));
  RETURN_IF_ERROR(bench.Add(
      name + " weight gradient",
      Args{.a = y, .b = x, .c = d_w, .a_transposed = true, .accumulate = true}, &kernels::Matmul));
  RETURN_IF_ERROR(bench.Add(name + " forward", Args{.a = x, .b = w, .c = y, .b_transposed = true},
                            &kernels::Matmul));
  watch.FreeTensors();
  return absl::OkStatus();
}

// Columns [begin, begin + heads c) of packed [b, s, width] as [b, s, heads, c].
TensorView HeadsAt(const TensorView& packed, int64_t begin, int64_t heads, int64_t c) {
  TensorView x = packed.Slice(2, begin, begin + heads * c);
  const int64_t batch_stride = x.strides[0], token_stride = x.strides[1];
  x.shape = {packed.shape[0], packed.shape[1], heads, c};
  x.strides = {batch_stride, token_stride, c, 1};
  return x;
}

absl::Status AddAttention(const AttentionShape& shape, OperatorBench& bench) {
  const auto [b, s, heads, kv_heads, c, value_c] = shape;
  Stopwatch& watch = bench.watch();
  const DType dtype = bench.dtype(), accumulator = kernels::AccumulatorDType(dtype);
  const int64_t k_begin = heads * c, v_begin = k_begin + kv_heads * c;
  const int64_t width = v_begin + kv_heads * value_c;
  ASSIGN_OR_RETURN(const TensorView qkv, watch.Random(dtype, {b, s, width}));
  ASSIGN_OR_RETURN(const TensorView d_qkv, watch.Zeros(dtype, {b, s, width}));
  ASSIGN_OR_RETURN(const TensorView out, watch.Zeros(dtype, {b, s, heads, value_c}));
  ASSIGN_OR_RETURN(const TensorView d_out, watch.Random(dtype, {b, s, heads, value_c}));
  ASSIGN_OR_RETURN(const TensorView lse, watch.Zeros(accumulator, {b, heads, s}));
  ASSIGN_OR_RETURN(const TensorView delta, watch.Zeros(accumulator, {b, heads, s}));
  const float scale = 1.0f / std::sqrt(static_cast<float>(c));
  const kernels::AttentionForwardArgs forward = {.q = HeadsAt(qkv, 0, heads, c),
                                                 .k = HeadsAt(qkv, k_begin, kv_heads, c),
                                                 .v = HeadsAt(qkv, v_begin, kv_heads, value_c),
                                                 .out = out,
                                                 .lse = lse,
                                                 .scale = scale};
  const kernels::AttentionBackwardArgs backward = {
      .d_out = d_out,
      .q = forward.q,
      .k = forward.k,
      .v = forward.v,
      .out = out,
      .lse = lse,
      .d_q = HeadsAt(d_qkv, 0, heads, c),
      .d_k = HeadsAt(d_qkv, k_begin, kv_heads, c),
      .d_v = HeadsAt(d_qkv, v_begin, kv_heads, value_c),
      .delta = delta,
      .scale = scale};
  const std::string name = kernels::WorkOf(forward).detail;
  RETURN_IF_ERROR(bench.Add(name + " forward", forward, &kernels::AttentionForward));
  RETURN_IF_ERROR(bench.Add(name + " backward", backward, &kernels::AttentionBackward));
  watch.FreeTensors();
  return absl::OkStatus();
}

}  // namespace

std::vector<GemmShape> UsualGemms(Device device) {
  if (device.type == DeviceType::kCpu) return {{512, 512, 512}, {512, 2048, 512}, {512, 512, 2048}};
  return {{8192, 8192, 8192},   {16384, 4096, 4096},  {16384, 14336, 4096}, {16384, 28672, 4096},
          {16384, 4096, 14336}, {32768, 2048, 2048},  {32768, 16384, 2048}, {32768, 2048, 8192},
          {8192, 128256, 4096}, {16384, 50257, 1600}, {16384, 50304, 1600}};
}

std::vector<AttentionShape> UsualAttentions(Device device) {
  if (device.type == DeviceType::kCpu) return {{1, 256, 4, 4, 64, 64}};
  return {{2, 8192, 32, 8, 128, 128},
          {4, 4096, 32, 8, 128, 128},
          {8, 4096, 32, 8, 64, 64},
          {16, 1024, 25, 25, 64, 64},
          {4, 4096, 16, 16, 192, 128}};
}

absl::StatusOr<BenchTable> BenchGemm(const std::vector<GemmShape>& shapes, Device device,
                                     DType dtype) {
  ASSIGN_OR_RETURN(OperatorBench bench,
                   OperatorBench::Create("matrix products, m x n x k", device, dtype));
  for (const GemmShape& shape : shapes) RETURN_IF_ERROR(AddGemms(shape, bench));
  return bench.table();
}

absl::StatusOr<BenchTable> BenchAttention(const std::vector<AttentionShape>& shapes, Device device,
                                          DType dtype) {
  ASSIGN_OR_RETURN(OperatorBench bench, OperatorBench::Create("causal attention", device, dtype));
  for (const AttentionShape& shape : shapes) RETURN_IF_ERROR(AddAttention(shape, bench));
  return bench.table();
}

}  // namespace muster::launch
