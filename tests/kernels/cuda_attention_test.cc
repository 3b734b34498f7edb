#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/ops/attention.h"
#include "tests/support/kernels/on_cuda.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

struct Case {
  const char* name;
  int64_t batch, num_queries, num_keys, num_heads, num_kv_heads, channels;
  bool causal = true;
  int64_t q_begin = 0, k_begin = 0;
  int64_t value_head_size = 0;  // 0: channels
  int64_t value_channels() const { return value_head_size > 0 ? value_head_size : channels; }
};

// A packed [B, S, width] tensor on both sides.
struct Packed {
  Tensor host, device;

  Packed(Tensor host_tensor, StreamView stream)
      : host(std::move(host_tensor)), device(CopyToCuda(host.view(), stream)) {}
  // Columns [begin, begin + count channels) as [B, S, count, channels].
  TensorView Host(int64_t begin, int64_t count, int64_t channels) const {
    TensorView x = host.view().Slice(2, begin, begin + count * channels);
    const int64_t batch_stride = x.strides[0], token_stride = x.strides[1];
    x.shape = {x.shape[0], x.shape[1], count, channels};
    x.strides = {batch_stride, token_stride, channels, 1};
    return x;
  }
  TensorView At(bool on_host, int64_t begin, int64_t count, int64_t channels) const {
    const TensorView x = Host(begin, count, channels);
    return on_host ? x : SameView(x, host.view(), device.view());
  }
};

Tensor NanTensor(DType dtype, Shape shape) {
  Tensor tensor = MakeTensor(dtype, shape);
  for (int64_t i = 0; i < tensor.view().num_elements(); ++i) {
    SetValue(tensor.view(), i, std::nan(""));
  }
  return tensor;
}

// The same attention on CPU and on CUDA. q, and k with v, lie in packed tensors with columns of a
// head that are not theirs at the end; so do their gradients, which start as NaN.
struct TwinAttention {
  const Case c;
  const DType dtype;
  const Stream stream = MakeCudaStream();
  Packed q, kv, d_q, d_kv, out, d_out;
  Tensor host_lse, host_delta, lse, delta;

  TwinAttention(const Case& c, DType dtype)
      : c(c),
        dtype(dtype),
        q(Pack(RandomTensor(dtype, QShape(), "q"))),
        kv(Pack(RandomTensor(dtype, KvShape(), "kv"))),
        d_q(Pack(NanTensor(dtype, QShape()))),
        d_kv(Pack(NanTensor(dtype, KvShape()))),
        out(Pack(NanTensor(dtype, OutShape()))),
        d_out(Pack(RandomTensor(dtype, OutShape(), "d_out"))),
        host_lse(MakeTensor(DType::kFloat32, {c.batch, c.num_heads, c.num_queries})),
        host_delta(MakeTensor(DType::kFloat32, {c.batch, c.num_heads, c.num_queries})),
        lse(CopyToCuda(host_lse.view(), stream.view())),
        delta(CopyToCuda(host_delta.view(), stream.view())) {}

  int64_t v_begin() const { return c.num_kv_heads * c.channels; }
  int64_t kv_end() const { return v_begin() + c.num_kv_heads * c.value_channels(); }
  Shape QShape() const { return {c.batch, c.num_queries, (c.num_heads + 1) * c.channels}; }
  Shape KvShape() const { return {c.batch, c.num_keys, kv_end() + c.channels}; }
  Shape OutShape() const { return {c.batch, c.num_queries, c.num_heads * c.value_channels()}; }
  Packed Pack(Tensor host) const { return Packed(std::move(host), stream.view()); }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(c.channels))); }

  AttentionForwardArgs ForwardArgs(bool on_host) const {
    return {.q = q.At(on_host, 0, c.num_heads, c.channels),
            .k = kv.At(on_host, 0, c.num_kv_heads, c.channels),
            .v = kv.At(on_host, v_begin(), c.num_kv_heads, c.value_channels()),
            .out = out.At(on_host, 0, c.num_heads, c.value_channels()),
            .lse = on_host ? host_lse.view() : lse.view(),
            .scale = scale(),
            .causal = c.causal,
            .q_begin = c.q_begin,
            .k_begin = c.k_begin};
  }
  AttentionBackwardArgs BackwardArgs(bool on_host) const {
    const AttentionForwardArgs forward = ForwardArgs(on_host);
    return {.d_out = d_out.At(on_host, 0, c.num_heads, c.value_channels()),
            .q = forward.q,
            .k = forward.k,
            .v = forward.v,
            .out = forward.out,
            .lse = forward.lse,
            .d_q = d_q.At(on_host, 0, c.num_heads, c.channels),
            .d_k = d_kv.At(on_host, 0, c.num_kv_heads, c.channels),
            .d_v = d_kv.At(on_host, v_begin(), c.num_kv_heads, c.value_channels()),
            .delta = on_host ? host_delta.view() : delta.view(),
            .scale = forward.scale,
            .causal = c.causal,
            .q_begin = c.q_begin,
            .k_begin = c.k_begin};
  }

  Tensor FromCuda(const Packed& x) const { return CopyToHost(x.device.view(), stream.view()); }
};

// Against the CPU, both rounded: twice the tolerance against fp64.
Tolerance ToleranceToCpu(DType dtype) {
  const Tolerance tolerance = ToleranceOf(dtype);
  return {2 * tolerance.relative, 2 * tolerance.absolute};
}

class CudaAttention : public OnCuda, public ::testing::WithParamInterface<std::tuple<Case, DType>> {
 protected:
  static void Run(const TwinAttention& x) {
    cpu::AttentionForward(x.ForwardArgs(/*on_host=*/true));
    AttentionForward(x.ForwardArgs(/*on_host=*/false), x.stream.view());
    cpu::AttentionBackward(x.BackwardArgs(/*on_host=*/true));
    AttentionBackward(x.BackwardArgs(/*on_host=*/false), x.stream.view());
    ASSERT_TRUE(x.stream.view().Synchronize().ok()) << x.stream.view().Synchronize();
  }
};

// Whole packed tensors are compared, NaN where nothing may be written.
void ExpectEqualPacked(const char* name, const TwinAttention& x, const Packed& packed,
                       const TensorView& part) {
  const Tensor actual = x.FromCuda(packed);
  const TensorView found = SameView(part, packed.host.view(), actual.view());
  EXPECT_TRUE(IsClose(found, Values(part), ToleranceToCpu(x.dtype))) << name;
  int64_t nan = 0, host_nan = 0;
  for (double value : Values(actual.view())) nan += std::isnan(value);
  for (double value : Values(packed.host.view())) host_nan += std::isnan(value);
  EXPECT_EQ(nan, host_nan) << name << ": wrote outside its heads";
}

TEST_P(CudaAttention, EqualsCpu) {
  const TwinAttention x(std::get<0>(GetParam()), std::get<1>(GetParam()));
  Run(x);
  EXPECT_TRUE(IsClose(CopyToHost(x.lse.view(), x.stream.view()).view(), Values(x.host_lse.view()),
                      ToleranceToCpu(x.dtype)));
  const AttentionBackwardArgs wanted = x.BackwardArgs(/*on_host=*/true);
  ExpectEqualPacked("out", x, x.out, wanted.out);
  ExpectEqualPacked("d_q", x, x.d_q, wanted.d_q);
  ExpectEqualPacked("d_k", x, x.d_kv, wanted.d_k);
  ExpectEqualPacked("d_v", x, x.d_kv, wanted.d_v);
}

TEST_P(CudaAttention, SecondRunIsBitwiseEqual) {
  const TwinAttention x(std::get<0>(GetParam()), std::get<1>(GetParam()));
  const auto run = [&] {
    AttentionForward(x.ForwardArgs(/*on_host=*/false), x.stream.view());
    AttentionBackward(x.BackwardArgs(/*on_host=*/false), x.stream.view());
    std::vector<double> values;
    for (const Packed* packed : {&x.out, &x.d_q, &x.d_kv}) {
      for (double value : Values(x.FromCuda(*packed).view())) {
        values.push_back(std::isnan(value) ? 0 : value);
      }
    }
    return values;
  };
  EXPECT_EQ(run(), run());
}

// Some are cuDNN's in bf16, some (small heads, other masks) run on the direct kernels.
INSTANTIATE_TEST_SUITE_P(
    Attention, CudaAttention,
    ::testing::Combine(
        ::testing::Values(Case{"OneToken", 1, 1, 1, 1, 1, 4}, Case{"Head64", 2, 128, 128, 4, 4, 64},
                          Case{"Head128", 1, 256, 256, 4, 2, 128},
                          Case{"Head128Full", 1, 128, 128, 2, 2, 128, false},
                          Case{"OddTokens", 2, 131, 131, 4, 1, 64},
                          Case{"Head192", 1, 96, 96, 2, 1, 192},
                          Case{"LatentHeads", 2, 256, 256, 4, 4, 192, true, 0, 0, 128},
                          Case{"LatentHeadsFull", 1, 96, 160, 2, 1, 192, false, 0, 0, 128},
                          Case{"OddHead", 1, 45, 45, 3, 1, 20},
                          Case{"LastQueries", 1, 64, 256, 2, 2, 64, true, 192, 0},
                          Case{"EarlierKeys", 1, 64, 64, 2, 1, 64, true, 128, 0},
                          Case{"MiddleQueries", 1, 40, 100, 2, 1, 64, true, 30, 0},
                          Case{"SomeRowsSeeNoKey", 1, 90, 50, 2, 2, 64, true, 0, 25},
                          Case{"NoRowSeesAKey", 1, 9, 7, 2, 1, 8, true, 3, 100},
                          Case{"NoKeys", 1, 9, 0, 2, 1, 8, false},
                          Case{"NoQueries", 1, 0, 9, 2, 1, 8}),
        ::testing::Values(DType::kFloat32, DType::kBFloat16)),
    [](const ::testing::TestParamInfo<std::tuple<Case, DType>>& info) {
      return std::string(std::get<0>(info.param).name) + "_" + Name(std::get<1>(info.param));
    });

}  // namespace
}  // namespace muster::kernels
