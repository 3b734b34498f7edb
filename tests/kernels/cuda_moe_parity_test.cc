// The CUDA operators of Mixture-of-Experts layers give what the CPU operators, their specification,
// give, and the same bits on every run.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/ops/balance.h"
#include "kernels/ops/capacity.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/topk_route.h"
#include "tests/support/kernels/device_parity.h"
#include "tests/support/kernels/op_cases.h"

namespace muster::kernels {
namespace {

constexpr DType kF32 = DType::kFloat32, kI32 = DType::kInt32, kI64 = DType::kInt64;

class CudaMoeParity : public OnCuda {};
class CudaRowParity : public OnCuda, public ::testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(, CudaRowParity, ::testing::Values(kF32, DType::kBFloat16), DTypeName);

struct Routed {
  Routed(int64_t num_tokens, int64_t num_experts, const RouterOptions& options)
      : logits(RandomTensor(kF32, {num_tokens, num_experts}, "logits", 1.5)),
        bias(RandomTensor(kF32, {num_experts}, "bias", 0.1)),
        scores(MakeTensor(kF32, {num_tokens, num_experts})),
        experts(MakeTensor(kI32, {num_tokens, options.top_k})),
        weights(MakeTensor(kF32, {num_tokens, options.top_k})) {
    cpu::TopkRouteForward({.logits = logits.view(),
                           .bias = bias.view(),
                           .scores = scores.view(),
                           .experts = experts.view(),
                           .weights = weights.view(),
                           .options = options});
  }
  Tensor logits, bias, scores, experts, weights;
};

TEST_F(CudaMoeParity, Router) {
  for (RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    for (int groups : {1, 4, 60}) {
      for (int64_t num_experts : {60, 240}) {
        SCOPED_TRACE(std::to_string(groups) + " groups of " + std::to_string(num_experts));
        const RouterOptions options{.score = score,
                                    .top_k = 3,
                                    .groups = groups,
                                    .group_top_k = groups == 1 ? 1 : groups / 2,
                                    .normalise = groups != 4,
                                    .scale = 2.5f,
                                    .aux_coefficient = 0.3f,
                                    .z_coefficient = 0.2f};
        const Routed given(300, num_experts, options), out(300, num_experts, options);
        const Tensor d_weights = RandomTensor(kF32, {300, 3}, "d_weights");
        const Tensor d_logits = MakeTensor(kF32, {300, num_experts});
        const Tensor d_logits_of_load = MakeTensor(kF32, {300, num_experts});
        const Tensor group_load = MakeTensor(kF32, {6, num_experts});
        const Tensor d_logits_of_groups = MakeTensor(kF32, {300, num_experts});
        const Tensor losses = TensorOf(DType::kFloat64, {2}, {1, 2});
        const Tensor load = RandomTensor(kF32, {num_experts}, "load", 0.1);
        ExpectParity(
            [&](Place& at) {
              TopkRouteForward({.logits = at(given.logits),
                                .bias = at(given.bias),
                                .scores = at(out.scores),
                                .experts = at(out.experts),
                                .weights = at(out.weights),
                                .options = options},
                               at.stream());
              TopkRouteBackwardArgs backward{.logits = at(given.logits),
                                             .scores = at(given.scores),
                                             .experts = at(given.experts),
                                             .d_weights = at(d_weights),
                                             .d_logits = at(d_logits),
                                             .losses = at(losses),
                                             .group_tokens = 50,
                                             .loss_scale = 1.0 / 300,
                                             .options = options};
              TopkRouteBackward(backward, at.stream());
              backward.load = at(load);
              backward.d_logits = at(d_logits_of_load);
              TopkRouteBackward(backward, at.stream());
              GroupLoad({.experts = at(given.experts),
                         .out = at(group_load),
                         .group_tokens = 50,
                         .scale = 1.0 / 80},
                        at.stream());
              backward.load = at(group_load);
              backward.d_logits = at(d_logits_of_groups);
              TopkRouteBackward(backward, at.stream());
            },
            {Close(out.scores), SameBits(out.experts), Close(out.weights), Close(d_logits),
             Close(d_logits_of_load), Close(group_load), Close(d_logits_of_groups),
             Close(losses, ToleranceOf(kF32))});
      }
    }
  }
}

TEST_F(CudaMoeParity, TiesChooseAsTheCpuAndNanStillChoosesDistinctExperts) {
  for (int groups : {1, 4}) {
    const RouterOptions options{.top_k = 3, .groups = groups, .group_top_k = groups == 1 ? 1 : 2};
    Routed routed(2, 40, options);
    for (int64_t e = 0; e < 80; ++e) SetValue(routed.logits.view(), e, 1);  // all equal
    ExpectParity(
        [&](Place& at) {
          TopkRouteForward({.logits = at(routed.logits),
                            .scores = at(routed.scores),
                            .experts = at(routed.experts),
                            .weights = at(routed.weights),
                            .options = options},
                           at.stream());
        },
        {SameBits(routed.experts)});
    SetValue(routed.logits.view(), 5, std::nan(""));
    Place cuda(kCuda0);
    TopkRouteForward({.logits = cuda(routed.logits),
                      .scores = cuda(routed.scores),
                      .experts = cuda(routed.experts),
                      .weights = cuda(routed.weights),
                      .options = options},
                     cuda.stream());
    const std::vector<double> chosen = Values(cuda.Read(routed.experts.view()).view());
    EXPECT_TRUE(chosen[0] != chosen[1] && chosen[1] != chosen[2] && chosen[0] != chosen[2]);
    for (double e : chosen) EXPECT_TRUE(e >= 0 && e < 40) << e;
  }
}

TEST_F(CudaMoeParity, SortByExpert) {
  struct Capacity {
    int64_t capacity, group_tokens;
  };
  for (const Capacity& limit : {Capacity{0, 0}, {20, 300}, {3, 7}, {1, 1}, {5000, 1000}}) {
    SCOPED_TRACE(std::to_string(limit.capacity) + " of " + std::to_string(limit.group_tokens));
    const Routed routed(1000, 40, {.top_k = 6});
    const Tensor rows = MakeTensor(kI32, {1000, 6}), counts = MakeTensor(kI64, {40});
    const Tensor offsets = MakeTensor(kI64, {41}), dropped = MakeTensor(kI64, {1});
    ExpectParity(
        [&](Place& at) {
          SortByExpert({.experts = at(routed.experts),
                        .rows = at(rows),
                        .counts = at(counts),
                        .offsets = at(offsets),
                        .dropped = at(dropped),
                        .capacity = limit.capacity,
                        .group_tokens = limit.group_tokens},
                       at.stream());
        },
        {SameBits(rows), SameBits(counts), SameBits(offsets), SameBits(dropped)});
  }
}

TEST_F(CudaMoeParity, AdmitByCapacityAndSortByExpertOfWhatIsLeft) {
  for (const int64_t ranks : {1, 2, 4}) {
    for (const int64_t num_experts : {40, 300}) {
      SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(num_experts) + " experts");
      const int64_t run = 240 / ranks, rows = 3 * run;  // 3 sequences
      const Routed routed(3 * 240, static_cast<int>(num_experts), {.top_k = 6});
      const Tensor all = TensorOf(kI32, {ranks, rows, 6}, Values(routed.experts.view()));
      const Tensor admitted = MakeTensor(kI32, {rows / 2, 6}),
                   sorted = MakeTensor(kI32, {rows / 2, 6});
      const Tensor counts = MakeTensor(kI64, {num_experts}), dropped = MakeTensor(kI64, {1});
      const Tensor offsets = MakeTensor(kI64, {num_experts + 1});
      ExpectParity(
          [&](Place& at) {
            AdmitByCapacity({.all = at(all),
                             .out = at(admitted),
                             .num_experts = num_experts,
                             .sequence_tokens = 240,
                             .capacity = 20,
                             .rank = ranks - 1,
                             .first_row = rows / 2},
                            at.stream());
            SortByExpert({at(admitted), at(sorted), at(counts), at(offsets), at(dropped)},
                         at.stream());
          },
          {SameBits(admitted), SameBits(sorted), SameBits(counts), SameBits(offsets),
           SameBits(dropped)});
    }
  }
}

TEST_F(CudaMoeParity, MergeSourcesAndSumCounts) {
  for (const int64_t num_sources : {1, 4, 7}) {
    const int64_t num_experts = 13;
    const Tensor counts = MakeTensor(kI64, {num_sources, num_experts});
    for (int64_t i = 0; i < counts.view().num_elements(); ++i) {
      SetValue(counts.view(), i, i % 3 == 0 ? 0 : static_cast<double>(i * 7 % 40));
    }
    const Tensor index = MakeTensor(kI32, {4000}), offsets = MakeTensor(kI64, {num_experts + 1});
    const Tensor row_count = MakeTensor(kI64, {1}), sums = MakeTensor(kI64, {num_sources});
    ExpectParity(
        [&](Place& at) {
          MergeSources({at(counts), at(index), at(offsets), at(row_count)}, at.stream());
          SumCounts({at(counts), at(sums)}, at.stream());
        },
        {SameBits(index), SameBits(offsets), SameBits(row_count), SameBits(sums)});
  }
}

TEST_P(CudaRowParity, DispatchCombineAndGather) {
  for (const int64_t dim : {1, 5, 64, 2056}) {
    const Routed routed(200, 10, {.top_k = 4});
    const Tensor rows = MakeTensor(kI32, {200, 4}), counts = MakeTensor(kI64, {10});
    const Tensor offsets = MakeTensor(kI64, {11}), dropped = MakeTensor(kI64, {1});
    cpu::SortByExpert({routed.experts.view(), rows.view(), counts.view(), offsets.view(),
                       dropped.view(), 15, 40});  // drops some
    const Tensor x = RandomTensor(GetParam(), {200, dim}, "x");
    const Tensor by_expert = RandomTensor(GetParam(), {800, dim}, "before");
    const Tensor combined = MakeTensor(GetParam(), {200, dim});
    const Tensor added = RandomTensor(GetParam(), {200, dim}, "before");
    const Tensor by_row = RandomTensor(kF32, {800}, "before"), back = MakeTensor(kF32, {200, 4});
    const Tensor index = MakeTensor(kI32, {800}), row_count = TensorOf(kI64, {1}, {700});
    for (int64_t r = 0; r < 800; ++r) SetValue(index.view(), r, static_cast<double>(r * 7 % 800));
    const Tensor gathered = RandomTensor(GetParam(), {800, dim}, "before");
    const Tensor restored = RandomTensor(GetParam(), {800, dim}, "before");
    ExpectParity(
        [&](Place& at) {
          DispatchRows({at(x), at(rows), at(by_expert)}, at.stream());
          CombineRows({at(by_expert), at(rows), at(combined)}, at.stream());
          CombineRows({at(by_expert), at(rows), at(added), true}, at.stream());
          PermuteWeights({at(routed.weights), at(rows), at(by_row)}, at.stream());
          PermuteWeights({at(back), at(rows), at(by_row), true}, at.stream());
          GatherRows({at(by_expert), at(index), at(row_count), at(gathered)}, at.stream());
          GatherRows({at(gathered), at(index), at(row_count), at(restored), true}, at.stream());
        },
        {SameBits(by_expert), SameBits(combined), SameBits(added), SameBits(by_row), SameBits(back),
         SameBits(gathered), SameBits(restored)});
  }
}

TEST_F(CudaMoeParity, Balance) {
  for (const int64_t num_experts : {1, 60, 300}) {
    const Tensor counts = MakeTensor(kI64, {3, num_experts});
    for (int64_t i = 0; i < 2 * num_experts; ++i) {
      SetValue(counts.view(), i, static_cast<double>(i * 37 % 11));  // the last layer: none
    }
    const Tensor total = TensorOf(kI64, {3, num_experts}, Values(counts.view()));
    const Tensor load = MakeTensor(kF32, {3, num_experts});
    const Tensor bias = RandomTensor(kF32, {3, num_experts}, "bias");
    ExpectParity(
        [&](Place& at) {
          AddCounts({at(counts), at(total)}, at.stream());
          UpdateBalance({at(counts), at(load), at(bias), 6, 0.001}, at.stream());
        },
        {SameBits(total), SameBits(load), SameBits(bias)});
  }
}

}  // namespace
}  // namespace muster::kernels
