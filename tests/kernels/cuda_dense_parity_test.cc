// The CUDA operators of a dense model give what the CPU operators, their specification, give:
// odd sizes, sizes of models, misaligned tensors; and the same bits on every run.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops/adamw.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/digest.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/swiglu.h"
#include "tests/support/kernels/device_parity.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/range_tables.h"

namespace muster::kernels {
namespace {

constexpr DType kF32 = DType::kFloat32;

class CudaParity : public OnCuda, public ::testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(, CudaParity, ::testing::Values(kF32, DType::kBFloat16), DTypeName);

// Random indices in [low, high).
Tensor RandomIndices(int64_t count, int64_t low, int64_t high, std::string_view name) {
  Tensor indices = MakeTensor(DType::kInt32, {count});
  const PhiloxKey key = MakePhiloxKey(1, name);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t drawn = Philox(key, static_cast<uint64_t>(i)).v[0] % (high - low);
    SetValue(indices.view(), i, static_cast<double>(low + drawn));
  }
  return indices;
}

Tensor Positive(DType dtype, Shape shape, std::string_view name) {
  Tensor tensor = RandomTensor(dtype, shape, name);
  for (int64_t i = 0; i < tensor.view().num_elements(); ++i) {
    SetValue(tensor.view(), i, 0.1 + std::fabs(GetValue(tensor.view(), i)));
  }
  return tensor;
}

// Rows of models, in numbers at which blocks take several turns; and odd ones.
const std::pair<int64_t, int64_t> kRowCases[] = {
    {1, 1},     {7, 33},    {300, 128},  {5, 1000},    {33, 4096},  {3, 8192},
    {2, 16384}, {4500, 96}, {2200, 768}, {1100, 1600}, {560, 4096}, {300, 8192}};

TEST_P(CudaParity, RmsNorm) {
  for (const auto& [rows, dim] : kRowCases) {
    for (bool with_residual : {false, true}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(dim));
      const Tensor x = RandomTensor(GetParam(), {rows, dim}, "x");
      const Tensor residual =
          with_residual ? RandomTensor(GetParam(), {rows, dim}, "residual") : Tensor();
      const Tensor weight = RandomTensor(GetParam(), {dim}, "weight");
      const Tensor none, d_y = RandomTensor(GetParam(), {rows, dim}, "d_y");
      const Tensor h = with_residual ? MakeTensor(GetParam(), {rows, dim}) : Tensor();
      const Tensor y = MakeTensor(GetParam(), {rows, dim}),
                   d_h = MakeTensor(GetParam(), {rows, dim});
      const Tensor rstd = MakeTensor(kF32, {rows}), given_rstd = Positive(kF32, {rows}, "rstd");
      const Tensor d_weight = RandomTensor(kF32, {dim}, "d_weight");
      ExpectParity(
          [&](Place& at) {
            RmsNormForward({.x = at(x),
                            .residual = at(residual),
                            .weight = at(weight),
                            .h = at(h),
                            .y = at(y),
                            .rstd = at(rstd)},
                           at.stream());
            RmsNormBackward({.d_y = at(d_y),
                             .h = at(x),
                             .weight = at(weight),
                             .rstd = at(given_rstd),
                             .d_residual = at(residual),
                             .d_h = at(d_h),
                             .d_weight = at(with_residual ? d_weight : none)},
                            at.stream());
          },
          {Close(y), Close(rstd), Close(with_residual ? h : y), Close(d_h), Close(d_weight)});
    }
  }
}

TEST_P(CudaParity, LayerNorm) {
  for (const auto& [rows, dim] : kRowCases) {
    for (bool with_options : {false, true}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(dim));
      const Tensor x = RandomTensor(GetParam(), {rows, dim}, "x");
      const Tensor none;
      const Tensor other = RandomTensor(GetParam(), {rows, dim}, "residual");
      const Tensor d_residual = RandomTensor(GetParam(), {rows, dim}, "d_residual");
      const Tensor weight = RandomTensor(GetParam(), {dim}, "weight");
      const Tensor bias = RandomTensor(GetParam(), {dim}, "bias");
      const Tensor h = MakeTensor(GetParam(), {rows, dim}), y = MakeTensor(GetParam(), {rows, dim});
      const Tensor d_h = MakeTensor(GetParam(), {rows, dim});
      const Tensor mean = MakeTensor(kF32, {rows}), rstd = MakeTensor(kF32, {rows});
      const Tensor given_mean = RandomTensor(kF32, {rows}, "mean");
      const Tensor given_rstd = Positive(kF32, {rows}, "rstd");
      const Tensor d_weight = RandomTensor(kF32, {dim}, "d_weight");
      const Tensor d_bias = RandomTensor(kF32, {dim}, "d_bias");
      ExpectParity(
          [&](Place& at) {
            LayerNormForward({.x = at(x),
                              .residual = at(with_options ? other : none),
                              .weight = at(weight),
                              .bias = at(with_options ? bias : none),
                              .h = at(with_options ? h : none),
                              .y = at(y),
                              .mean = at(mean),
                              .rstd = at(rstd),
                              .epsilon = 0.1f},  // one element has no variance
                             at.stream());
            LayerNormBackward({.d_y = at(other),
                               .h = at(x),
                               .weight = at(weight),
                               .mean = at(given_mean),
                               .rstd = at(given_rstd),
                               .d_residual = at(with_options ? d_residual : none),
                               .d_h = at(d_h),
                               .d_weight = at(d_weight),
                               .d_bias = at(with_options ? d_bias : none)},
                              at.stream());
          },
          {Close(y), Close(mean), Close(rstd), Close(h), Close(d_h), Close(d_weight),
           Close(d_bias)});
    }
  }
}

// As the layers call it: d_h over d_residual, and over d_y.
TEST_P(CudaParity, NormGradientsMayAliasTheirInputs) {
  const int64_t rows = 1100, dim = 1600;
  const Tensor h = RandomTensor(GetParam(), {rows, dim}, "h");
  const Tensor weight = RandomTensor(GetParam(), {dim}, "weight");
  const Tensor mean = RandomTensor(kF32, {rows}, "mean"), rstd = Positive(kF32, {rows}, "rstd");
  const Tensor d_weight = MakeTensor(kF32, {dim}), d_bias = MakeTensor(kF32, {dim});
  for (const bool over_d_y : {false, true}) {
    const Tensor d_y = RandomTensor(GetParam(), {rows, dim}, "d_y");
    const Tensor d_residual = RandomTensor(GetParam(), {rows, dim}, "d_residual");
    const Tensor& d_h = over_d_y ? d_y : d_residual;
    ExpectParity(
        [&](Place& at) {
          LayerNormBackward({.d_y = at(d_y),
                             .h = at(h),
                             .weight = at(weight),
                             .mean = at(mean),
                             .rstd = at(rstd),
                             .d_residual = at(d_residual),
                             .d_h = at(d_h),
                             .d_weight = at(d_weight),
                             .d_bias = at(d_bias)},
                            at.stream());
        },
        {Close(d_h), Close(d_weight), Close(d_bias)});
  }
}

TEST_P(CudaParity, RopeOnAPackedProjection) {
  for (const int64_t size : {2, 6, 64, 128}) {
    const Tensor packed = RandomTensor(GetParam(), {9, 5, size}, "packed");
    const Tensor positions = RandomIndices(9, 0, 40, "positions");
    const Tensor table = MakeTensor(kF32, {40, size / 2, 2});
    for (bool backward : {false, true}) {
      ExpectParity(
          [&](Place& at) {
            RopeTable({.table = at(table), .theta = 500000.0}, at.stream());
            // Heads 1 to 4 of 5: the stride between tokens is not the size of a token.
            Rope({.x = at(packed).Slice(1, 1, 4),
                  .positions = at(positions),
                  .table = at(table),
                  .backward = backward},
                 at.stream());
          },
          {Close(table), Close(packed)});
    }
  }
}

TEST_P(CudaParity, SwiGluAndGelu) {
  for (const auto& [rows, size] : {std::pair<int64_t, int64_t>{5, 37}, {3, 1408}, {40, 8}}) {
    for (bool weighted : {false, true}) {
      const Tensor none, gate_up = RandomTensor(GetParam(), {rows, 2 * size}, "gate_up", 3.0);
      const Tensor x = RandomTensor(GetParam(), {rows, size}, "x", 3.0);
      const Tensor d_out = RandomTensor(GetParam(), {rows, size}, "d_out");
      const Tensor row_weight = RandomTensor(kF32, {rows}, "row_weight");
      const Tensor count = TensorOf(DType::kInt64, {1}, {static_cast<double>(rows - 1)});
      const Tensor out = RandomTensor(GetParam(), {rows, size}, "before");
      const Tensor y = RandomTensor(GetParam(), {rows, size}, "before");
      const Tensor d_x = MakeTensor(GetParam(), {rows, size}), d_weight = MakeTensor(kF32, {rows});
      const Tensor gelu_d_weight = MakeTensor(kF32, {rows});
      const Tensor& weight = weighted ? row_weight : none;
      ExpectParity(
          [&](Place& at) {
            SwiGluForward({at(gate_up), at(weight), at(count), at(out)}, at.stream());
            GeluForward({at(x), at(weight), at(count), at(y)}, at.stream());
            GeluBackward({at(d_out), at(x), at(weight), at(count), at(d_x), at(gelu_d_weight)},
                         at.stream());
            // Over its input.
            SwiGluBackward(
                {at(d_out), at(gate_up), at(weight), at(count), at(gate_up), at(d_weight)},
                at.stream());
          },
          {Close(out), Close(y), Close(d_x), Close(gelu_d_weight), Close(gate_up),
           Close(d_weight)});
    }
  }
}

TEST_P(CudaParity, GeluWithTheGradientOfABias) {
  for (const auto& [rows, size] : {std::pair<int64_t, int64_t>{1, 1}, {2000, 77}, {515, 4096}}) {
    const Tensor x = RandomTensor(GetParam(), {rows, size}, "x", 3.0);
    const Tensor d_out = RandomTensor(GetParam(), {rows, size}, "d_out");
    const Tensor d_x = MakeTensor(GetParam(), {rows, size});
    const Tensor d_bias = RandomTensor(kF32, {size}, "d_bias");
    // A bf16 of d_x that is rounded the other way moves a sum by half an ulp of it.
    const Tolerance of_sum = GetParam() == kF32 ? ToleranceOf(kF32) : Tolerance{1e-3, 1e-3};
    for (bool over_x : {false, true}) {
      ExpectParity(
          [&](Place& at) {
            GeluBackward(
                {.d_out = at(d_out), .x = at(x), .d_x = at(over_x ? x : d_x), .d_bias = at(d_bias)},
                at.stream());
          },
          {Close(over_x ? x : d_x), Close(d_bias, of_sum)});
    }
  }
}

TEST_P(CudaParity, Embedding) {
  for (const int64_t dim : {3, 64, 1032}) {
    const Tensor tokens = RandomIndices(700, 0, 60, "tokens");
    const Tensor positions = RandomIndices(700, 0, 9, "positions");
    const Tensor table = RandomTensor(GetParam(), {40, dim}, "table");
    const Tensor position_table = RandomTensor(GetParam(), {9, dim}, "position_table");
    const Tensor out = MakeTensor(GetParam(), {700, dim});
    const Tensor d_out = RandomTensor(GetParam(), {700, dim}, "d_out");
    const Tensor d_table = RandomTensor(kF32, {40, dim}, "d_table");
    ExpectParity(
        [&](Place& at) {
          EmbeddingForward({.tokens = at(tokens),
                            .table = at(table),
                            .position_table = at(position_table),
                            .positions = at(positions),
                            .out = at(out),
                            .vocab_begin = 10},
                           at.stream());
          EmbeddingBackward({.d_out = at(d_out),
                             .indices = at(tokens),
                             .d_table = at(d_table),
                             .vocab_begin = 10},
                            at.stream());
        },
        {SameBits(out), SameBits(d_table)});  // tokens are added in their order on both
  }
}

// Padding, constant data: many tokens in a row of the table, 65,536 in one, beside rows of a few
// and tokens of another shard. Rows of more and of fewer than kernels/ops/cuda/embedding.cu's
// kFewEquals.
TEST_P(CudaParity, EmbeddingBackwardOfFrequentTokens) {
  constexpr int64_t kTokens = 65536, kDim = 24;
  const Tensor d_out = RandomTensor(GetParam(), {kTokens, kDim}, "d_out");
  const auto expect_parity = [&](const Tensor& indices) {
    const Tensor d_table = RandomTensor(kF32, {40, kDim}, "d_table");
    ExpectParity(
        [&](Place& at) {
          EmbeddingBackward({.d_out = at(d_out),
                             .indices = at(indices),
                             .d_table = at(d_table),
                             .vocab_begin = 10},
                            at.stream());
        },
        {SameBits(d_table)});
  };
  {
    SCOPED_TRACE("one token");
    const Tensor indices = MakeTensor(DType::kInt32, {kTokens});
    for (int64_t t = 0; t < kTokens; ++t) SetValue(indices.view(), t, 17);
    expect_parity(indices);
  }
  {
    SCOPED_TRACE("some frequent tokens");
    const Tensor indices = RandomIndices(kTokens, 0, 60, "tokens");
    for (int64_t t = 0; t < kTokens; t += 2) SetValue(indices.view(), t, t % 3 == 0 ? 12 : 49);
    for (int64_t t = 1; t < kTokens; t += 4) SetValue(indices.view(), t, 3);  // not of this shard
    expect_parity(indices);
  }
  {
    SCOPED_TRACE("as many as are compared, and one more");
    const Tensor indices = MakeTensor(DType::kInt32, {kTokens});
    for (int64_t t = 0; t < kTokens; ++t) {
      SetValue(indices.view(), t, t < 3 * 1024 ? 10 + t % 3 : t == 50000 ? 10 : 5);
    }
    expect_parity(indices);
  }
}

TEST_P(CudaParity, CrossEntropy) {
  // Rows as long as they are apart, and with a gap that must stay as it is.
  using Case = std::pair<int64_t, int64_t>;
  for (const auto& [size, stride] :
       {Case{1, 1}, Case{7, 7}, Case{1000, 1000}, Case{50257, 50257}, Case{50257, 50304}}) {
    const int64_t row = size;
    const auto rows = [row](const TensorView& x) { return x.Slice(1, 0, row); };
    const int64_t num_tokens = 9, vocab_begin = 3;
    const Tensor logits = RandomTensor(GetParam(), {num_tokens, stride}, "logits", 4.0);
    const Tensor targets = RandomIndices(num_tokens, 0, size + 6, "targets");
    SetValue(targets.view(), 2, -100);
    const Tensor stats = MakeTensor(kF32, {num_tokens, 3}), losses = MakeTensor(kF32, {num_tokens});
    const Tensor given = MakeTensor(kF32, {num_tokens, 3});
    const Tensor shards = MakeTensor(kF32, {3, num_tokens, 3}),
                 merged = MakeTensor(kF32, {num_tokens, 3});
    FillRandom(shards.view(), "shards", 3.0);
    for (int64_t i = 1; i < shards.view().num_elements(); i += 3) {
      SetValue(shards.view(), i, 1 + std::fabs(GetValue(shards.view(), i)));
    }
    cpu::CrossEntropyStats({rows(logits.view()), targets.view(), given.view(), vocab_begin});
    const Tensor d_logits = RandomTensor(GetParam(), {num_tokens, stride}, "logits", 4.0);
    ExpectParity(
        [&](Place& at) {
          CrossEntropyStats({rows(at(logits)), at(targets), at(stats), vocab_begin}, at.stream());
          CrossEntropyMergeStats({at(shards), at(merged)}, at.stream());
          CrossEntropyLoss({at(merged), at(targets), at(losses)}, at.stream());
          CrossEntropyBackward({rows(at(d_logits)), at(targets), at(given), 0.25f, vocab_begin},
                               at.stream());
        },
        {Close(stats), Close(merged), Close(losses), Close(d_logits)});
  }
}

TEST_P(CudaParity, AdamWAndItsSkip) {
  for (const double scale : {0.5, 0.0, std::nan("")}) {
    const int64_t size = 100003;
    const Tensor grad = RandomTensor(kF32, {size}, "grad"),
                 master = RandomTensor(kF32, {size}, "w");
    const Tensor moment1 = RandomTensor(kF32, {size}, "m"), moment2 = Positive(kF32, {size}, "v");
    const Tensor weight = RandomTensor(GetParam(), {size}, "before");
    const Tensor grad_scale = TensorOf(kF32, {1}, {scale});
    std::vector<OwnedTable<AdamWRange>> tables;  // until all runs have ended
    const auto run = [&](Place& at) {
      const AdamWTensors tensors{at(grad), at(master), at(moment1), at(moment2), at(weight)};
      // A piece, one element, none, and ranges that do not start aligned.
      tables.emplace_back(
          tensors.Ranges({0, 4096, 4097, 4097, 50003, size}, {0.1f, 0.0f, 0.1f, 0.1f, 0.0f}),
          at.stream());
      AdamW({.table = tables.back().table,
             .weight_dtype = GetParam(),
             .grad_scale = at(grad_scale),
             .learning_rate = 0.01f,
             .step = 3},
            at.stream());
    };
    if (scale == 0.5) {
      ExpectParity(run, {Close(master), Close(moment1), Close(moment2), Close(weight)});
    } else {
      ExpectParity(run, {SameBits(master), SameBits(moment1), SameBits(moment2), SameBits(weight)});
    }
  }
}

// Digests of the same bits: those that a skipped update reads and leaves. And those of an update
// are the ones that the next reads.
TEST_P(CudaParity, DigestsOfAdamW) {
  for (const bool apart : {true, false}) {
    const int64_t size = 100003;
    if (!apart && GetParam() != kF32) continue;
    const Tensor grad = RandomTensor(kF32, {size}, "grad"),
                 master = RandomTensor(kF32, {size}, "w");
    const Tensor moment1 = RandomTensor(kF32, {size}, "m"), moment2 = Positive(kF32, {size}, "v");
    const Tensor weight = RandomTensor(GetParam(), {size}, "before");
    const Tensor no_scale = TensorOf(kF32, {1}, {0}), scale = TensorOf(kF32, {1}, {0.5});
    const Tensor of_skipped = MakeTensor(DType::kInt64, {5, 2}),
                 first = MakeTensor(DType::kInt64, {5, 2}),
                 second = MakeTensor(DType::kInt64, {5, 2});
    std::vector<OwnedTable<AdamWRange>> tables;  // until all runs have ended
    const auto run = [&](Place& at) {
      AdamWTensors tensors{at(grad), at(master), at(moment1), at(moment2), at(weight)};
      if (!apart) tensors.weight = tensors.master;
      tables.emplace_back(
          tensors.Ranges({0, 4096, 4097, 4097, 50003, size}, {0.1f, 0.0f, 0.1f, 0.1f, 0.0f}),
          at.stream());
      const auto update = [&](const Tensor& by, const Tensor& digests) {
        AdamW({.table = tables.back().table,
               .weight_dtype = GetParam(),
               .grad_scale = at(by),
               .learning_rate = 0.01f,
               .step = 3,
               .digests = at(digests)},
              at.stream());
      };
      update(no_scale, of_skipped);
      update(scale, first);
      update(scale, second);
    };
    ExpectParity(run, {SameBits(of_skipped), Close(master)});
    for (const int64_t shift : {0, 1}) {
      Place cuda(kCuda0, shift);
      run(cuda);
      const Tensor one = cuda.Read(first.view()), two = cuda.Read(second.view());
      for (int64_t r = 0; r < 5; ++r) {
        EXPECT_EQ(one.view().as<int64_t>()[2 * r + 1], two.view().as<int64_t>()[2 * r]) << r;
      }
    }
  }
}

TEST_P(CudaParity, Digests) {
  for (const int64_t size : {1, 1001, 3000017}) {
    const Tensor x = RandomTensor(GetParam(), {size}, "x");
    const Tensor out = MakeTensor(DType::kInt64, {4});
    std::vector<OwnedTable<DigestRange>> tables;  // until all runs have ended
    ExpectParity(
        [&](Place& at) {
          tables.emplace_back(
              std::vector<DigestRange>{
                  {0, size / 3}, {size / 3, 1}, {0, 0}, {size / 3, size - size / 3}},
              at.stream());
          Digest({.x = at(x), .table = tables.back().table, .out = at(out)}, at.stream());
        },
        {SameBits(out)});
  }
}

TEST_P(CudaParity, Reductions) {
  for (const int64_t size : {1, 1001, 3000017}) {
    const Tensor x = RandomTensor(GetParam(), {size}, "x");
    const Tensor squares = TensorOf(DType::kFloat64, {1}, {2}),
                 sum = TensorOf(DType::kFloat64, {1}, {3});
    const Tensor norm = MakeTensor(DType::kFloat64, {1}), scale = MakeTensor(kF32, {1});
    std::vector<OwnedTable<SquaresRange>> tables;  // until all runs have ended
    ExpectParity(
        [&](Place& at) {
          tables.emplace_back(SquaresRanges(at(x), {0, size / 3, size / 3 + 1, size}), at.stream());
          SumOfSquares({tables.back().table, GetParam(), at(squares)}, at.stream());
          Sum({at(x), at(sum), 0.5}, at.stream());
          ClipCoefficient({at(squares), at(norm), at(scale), 1.0}, at.stream());
        },
        {Close(squares), Close(sum, {1e-9, 0}), Close(norm), Close(scale)});
  }
}

TEST_P(CudaParity, ColumnSum) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {2000, 77}, {515, 4096}}) {
    const Tensor x = RandomTensor(GetParam(), {rows, columns}, "x");
    const Tensor out = RandomTensor(kF32, {columns}, "out");
    ExpectParity([&](Place& at) { ColumnSum({at(x), at(out)}, at.stream()); }, {Close(out)});
  }
}

TEST_P(CudaParity, Elementwise) {
  for (const int64_t size : {1, 1027, 65536}) {
    const Tensor a = RandomTensor(GetParam(), {3, size}, "a"),
                 b = RandomTensor(GetParam(), {3, size}, "b");
    const Tensor sum = MakeTensor(GetParam(), {3, size}), slices = MakeTensor(GetParam(), {size});
    const Tensor wide = MakeTensor(kF32, {3, size}),
                 narrow = MakeTensor(DType::kBFloat16, {3, size});
    const Tensor filled = MakeTensor(GetParam(), {3, size}),
                 normal = MakeTensor(GetParam(), {3, size});
    ExpectParity(
        [&](Place& at) {
          Add({at(a), at(b), at(sum)}, at.stream());
          SumSlices({at(a), at(slices)}, at.stream());
          Cast({at(a), at(wide)}, at.stream());
          Cast({at(a), at(narrow)}, at.stream());
          Fill({at(filled), 1.0 / 3.0}, at.stream());
          FillNormal({.x = at(normal),
                      .global_shape = {10, size + 5},
                      .begin = {2, 4},
                      .key = {.lo = 7, .hi = 9},
                      .std = 0.02f},
                     at.stream());
        },
        {SameBits(sum), SameBits(slices), SameBits(wide), SameBits(narrow), SameBits(filled),
         SameBits(normal)});
  }
}

class CudaOps : public OnCuda {};

TEST_F(CudaOps, RefuseFp64InTheStream) {
  Stream stream = MakeCudaStream();
  const Tensor x = CopyToCuda(RandomTensor(DType::kFloat64, {8}, "x").view(), stream.view());
  Add({x.view(), x.view(), x.view()}, stream.view());
  const absl::Status status = stream.view().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("fp64"), std::string::npos) << status.ToString();
}

TEST_F(CudaOps, TakeEmptyTensors) {
  Stream stream = MakeCudaStream();
  const TensorView none(nullptr, kF32, {0}, kCuda0), matrix(nullptr, kF32, {0, 8}, kCuda0);
  const Tensor out = CopyToCuda(MakeTensor(DType::kFloat64, {1}).view(), stream.view());
  Add({none, none, none}, stream.view());
  SumOfSquares({.dtype = kF32, .out = out.view()}, stream.view());
  GeluForward({.x = matrix, .out = matrix}, stream.view());
  const absl::Status status = stream.view().Synchronize();
  EXPECT_TRUE(status.ok()) << status.ToString();
}

}  // namespace
}  // namespace muster::kernels
