#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/attention_support.h"
#include "tests/support/kernels/device_parity.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/ops/cuda/attention_cudnn.h"
#include "kernels/ops/cuda/context.h"
#endif

namespace muster::kernels {
namespace {

// Which kernels are to run.
enum Way { kFp32, kBf16Direct, kBf16Cudnn };
DType DTypeOf(Way way) { return way == kFp32 ? DType::kFloat32 : DType::kBFloat16; }
// In fp32 the direct kernels run whatever is asked for.
AttentionKernel KernelOf(Way way) {
  return way == kBf16Direct ? AttentionKernel::kDirect : AttentionKernel::kCudnn;
}

// What cuDNN does with a case.
enum Fused { kTakes, kRefuses, kIsNotAsked };

struct Case {
  const char* name;
  Fused fused;
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
  const AttentionKernel kernel;
  bool deterministic = true;
  const Stream stream = MakeCudaStream();
  Packed q, kv, d_q, d_kv, out, d_out;
  Tensor host_lse, host_delta, lse, delta;

  TwinAttention(const Case& c, Way way)
      : c(c),
        dtype(DTypeOf(way)),
        kernel(KernelOf(way)),
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
            .k_begin = c.k_begin,
            .kernel = kernel};
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
            .k_begin = c.k_begin,
            .deterministic = deterministic,
            .kernel = kernel};
  }
  void RunOnCuda() const {
    AttentionForward(ForwardArgs(/*on_host=*/false), stream.view());
    AttentionBackward(BackwardArgs(/*on_host=*/false), stream.view());
  }

  Tensor FromCuda(const Packed& x) const { return CopyToHost(x.device.view(), stream.view()); }
  // By a stream of its own: an error stays in a stream.
  Tensor FromCudaAfterFailure(const Packed& x) const {
    const Stream other = MakeCudaStream();
    return CopyToHost(x.device.view(), other.view());
  }
};

// Against the CPU, both rounded: twice the tolerance against fp64.
Tolerance ToleranceToCpu(DType dtype) {
  const Tolerance tolerance = ToleranceOf(dtype);
  return {2 * tolerance.relative, 2 * tolerance.absolute};
}

// Calls that cuDNN ran on a stream.
int64_t CudnnRuns(StreamView stream) {
#ifdef MUSTER_WITH_CUDA
  const auto& attention = cuda::CudaContext::Of(stream).attention;
  return attention == nullptr ? 0 : static_cast<const cuda::CudnnAttention&>(*attention).num_runs();
#else
  (void)stream;
  return 0;
#endif
}

class CudaAttention : public OnCuda, public ::testing::WithParamInterface<std::tuple<Case, Way>> {
 protected:
  void SetUp() override {
    OnCuda::SetUp();
    if (!IsSkipped() && way() == kBf16Cudnn && CudnnVersion().empty()) {
      GTEST_SKIP() << "this build has no cuDNN";
    }
  }
  static const Case& TheCase() { return std::get<0>(GetParam()); }
  static Way way() { return std::get<1>(GetParam()); }
  static bool IsRefused() { return way() == kBf16Cudnn && TheCase().fused == kRefuses; }
  static int64_t WantedCudnnRuns() {
    return way() == kBf16Cudnn && TheCase().fused == kTakes ? 2 : 0;
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
  if (IsRefused()) GTEST_SKIP() << "cuDNN has no kernel for it: see IsRefusedByName";
  const TwinAttention x(TheCase(), way());
  cpu::AttentionForward(x.ForwardArgs(/*on_host=*/true));
  cpu::AttentionBackward(x.BackwardArgs(/*on_host=*/true));
  x.RunOnCuda();
  const absl::Status status = x.stream.view().Synchronize();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(CudnnRuns(x.stream.view()), WantedCudnnRuns());
  EXPECT_TRUE(IsClose(CopyToHost(x.lse.view(), x.stream.view()).view(), Values(x.host_lse.view()),
                      ToleranceToCpu(x.dtype)));
  const AttentionBackwardArgs wanted = x.BackwardArgs(/*on_host=*/true);
  ExpectEqualPacked("out", x, x.out, wanted.out);
  ExpectEqualPacked("d_q", x, x.d_q, wanted.d_q);
  ExpectEqualPacked("d_k", x, x.d_kv, wanted.d_k);
  ExpectEqualPacked("d_v", x, x.d_kv, wanted.d_v);
}

TEST_P(CudaAttention, SecondRunIsBitwiseEqual) {
  if (IsRefused()) GTEST_SKIP() << "cuDNN has no kernel for it: see IsRefusedByName";
  const TwinAttention x(TheCase(), way());
  x.RunOnCuda();
  const Tensor out = x.FromCuda(x.out), d_q = x.FromCuda(x.d_q), d_kv = x.FromCuda(x.d_kv);
  x.RunOnCuda();
  EXPECT_TRUE(BitsEqual(out, x.FromCuda(x.out)));
  EXPECT_TRUE(BitsEqual(d_q, x.FromCuda(x.d_q)));
  EXPECT_TRUE(BitsEqual(d_kv, x.FromCuda(x.d_kv)));
  EXPECT_EQ(CudnnRuns(x.stream.view()), 2 * WantedCudnnRuns());
}

// No other kernel runs in cuDNN's place.
TEST_P(CudaAttention, IsRefusedByName) {
  if (!IsRefused()) GTEST_SKIP() << "runs";
  const TwinAttention x(TheCase(), way());
  AttentionForward(x.ForwardArgs(/*on_host=*/false), x.stream.view());
  const absl::Status status = x.stream.view().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  for (const char* part : {"cuDNN", "attention_kernel=DIRECT"}) {
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  }
  for (double value : Values(x.FromCudaAfterFailure(x.out).view())) {
    ASSERT_TRUE(std::isnan(value)) << "something was written";
  }
}

std::string TestName(const ::testing::TestParamInfo<std::tuple<Case, Way>>& info) {
  constexpr const char* kWays[] = {"fp32", "bf16_direct", "bf16_cudnn"};
  return std::string(std::get<0>(info.param).name) + "_" + kWays[std::get<1>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(
    Attention, CudaAttention,
    ::testing::Combine(
        ::testing::Values(Case{"OneToken", kRefuses, 1, 1, 1, 1, 1, 4},
                          Case{"Head64", kTakes, 2, 128, 128, 4, 4, 64},
                          Case{"Head128", kTakes, 1, 256, 256, 4, 2, 128},
                          Case{"Head128Full", kTakes, 1, 128, 128, 2, 2, 128, false},
                          Case{"OddTokens", kTakes, 2, 131, 131, 4, 1, 64},
                          Case{"Head192", kTakes, 1, 96, 96, 2, 1, 192},
                          Case{"LatentHeads", kTakes, 2, 256, 256, 4, 4, 192, true, 0, 0, 128},
                          Case{"LatentHeadsFull", kTakes, 1, 96, 160, 2, 1, 192, false, 0, 0, 128},
                          Case{"OddHead", kRefuses, 1, 45, 45, 3, 1, 20},
                          Case{"OddValues", kRefuses, 1, 45, 45, 2, 1, 64, true, 0, 0, 20},
                          Case{"LastQueries", kTakes, 1, 64, 256, 2, 2, 64, true, 192, 0},
                          Case{"EarlierKeys", kTakes, 1, 64, 64, 2, 1, 64, true, 128, 0},
                          Case{"MiddleQueries", kRefuses, 1, 40, 100, 2, 1, 64, true, 30, 0},
                          Case{"SomeRowsSeeNoKey", kRefuses, 1, 90, 50, 2, 2, 64, true, 0, 25},
                          Case{"NoRowSeesAKey", kRefuses, 1, 9, 7, 2, 1, 8, true, 3, 100},
                          Case{"NoKeys", kIsNotAsked, 1, 9, 0, 2, 1, 8, false},
                          Case{"NoQueries", kIsNotAsked, 1, 0, 9, 2, 1, 8}),
        ::testing::Values(kFp32, kBf16Direct, kBf16Cudnn)),
    TestName);

class CudaCudnnAttention : public OnCuda {
 protected:
  void SetUp() override {
    OnCuda::SetUp();
    if (!IsSkipped() && CudnnVersion().empty()) GTEST_SKIP() << "this build has no cuDNN";
  }
};

// Sequences of many tiles, whose sums have many orders: with each head size that jobs may have.
TEST_F(CudaCudnnAttention, DeterministicBackwardRepeatsItsBitsAndTheOtherItsValues) {
  for (const auto& [head_size, value_head_size] :
       {std::pair{64, 64}, std::pair{96, 96}, std::pair{128, 128}, std::pair{192, 128},
        std::pair{192, 192}, std::pair{256, 256}}) {
    SCOPED_TRACE(std::to_string(head_size) + "/" + std::to_string(value_head_size));
    TwinAttention x({"", kTakes, 1, 1024, 1024, 8, 4, head_size, true, 0, 0, value_head_size},
                    kBf16Cudnn);
    x.RunOnCuda();
    const absl::Status status = x.stream.view().Synchronize();
    ASSERT_TRUE(status.ok()) << status;
    const Tensor d_q = x.FromCuda(x.d_q), d_kv = x.FromCuda(x.d_kv);
    for (int repeat = 0; repeat < 3; ++repeat) {
      x.RunOnCuda();
      EXPECT_TRUE(BitsEqual(d_q, x.FromCuda(x.d_q)));
      EXPECT_TRUE(BitsEqual(d_kv, x.FromCuda(x.d_kv)));
    }
    x.deterministic = false;
    x.RunOnCuda();
    ASSERT_TRUE(x.stream.view().Synchronize().ok());
    EXPECT_EQ(CudnnRuns(x.stream.view()), 2 * 5);
    const TensorView part = x.d_q.Host(0, 8, head_size);
    const Tensor other = x.FromCuda(x.d_q);
    EXPECT_TRUE(IsClose(SameView(part, x.d_q.host.view(), other.view()),
                        Values(SameView(part, x.d_q.host.view(), d_q.view())),
                        ToleranceToCpu(x.dtype)));
  }
}

TEST_F(CudaCudnnAttention, RefusesRowsThatAreNotOfWhole16Bytes) {
  const TwinAttention x({"", kTakes, 1, 64, 64, 2, 2, 64}, kBf16Cudnn);
  AttentionForwardArgs args = x.ForwardArgs(/*on_host=*/false);
  args.q.data = static_cast<char*>(args.q.data) + 2;
  AttentionForward(args, x.stream.view());
  const absl::Status status = x.stream.view().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_NE(status.message().find("16 bytes"), absl::string_view::npos) << status;
  EXPECT_EQ(CudnnRuns(x.stream.view()), 0);
}

}  // namespace
}  // namespace muster::kernels
