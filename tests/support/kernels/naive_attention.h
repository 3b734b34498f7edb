#pragma once
// The reference of the attention tests: the definition, row by row, in fp64.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ops/attention.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

struct NaiveAttention {
  std::vector<double> out;                 // [B, Sq, H, Cv]
  std::vector<double> lse, probabilities;  // [B, H, Sq], [B, H, Sq, Sk]
  std::vector<double> d_q, d_k, d_v;       // only from NaiveAttentionBackward
};

// Calls body(b, h, i): every query row of every head.
template <typename Body>
void ForEachQuery(const TensorView& q, Body&& body) {
  for (int64_t b = 0; b < q.shape[0]; ++b) {
    for (int64_t h = 0; h < q.shape[2]; ++h) {
      for (int64_t i = 0; i < q.shape[1]; ++i) body(b, h, i);
    }
  }
}

// Row-major index of [b, s, h, c] in a tensor shaped like x, without c.
inline size_t RowOf(const TensorView& x, int64_t b, int64_t s, int64_t h) {
  return static_cast<size_t>(((b * x.shape[1] + s) * x.shape[2] + h) * x.shape[3]);
}

inline NaiveAttention NaiveAttentionForward(const AttentionForwardArgs& args) {
  const std::vector<double> q = Values(args.q), k = Values(args.k), v = Values(args.v);
  const int64_t num_queries = args.q.shape[1], num_heads = args.q.shape[2];
  const int64_t num_keys = args.k.shape[1], group = num_heads / args.k.shape[2];
  const size_t channels = static_cast<size_t>(args.q.shape[3]);
  const size_t value_channels = static_cast<size_t>(args.v.shape[3]);
  NaiveAttention result;
  result.out.assign(static_cast<size_t>(args.out.num_elements()), 0);
  ForEachQuery(args.q, [&](int64_t b, int64_t h, int64_t i) {
    std::vector<double> scores(static_cast<size_t>(num_keys));
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t j = 0; j < num_keys; ++j) {
      double dot = 0;
      for (size_t c = 0; c < channels; ++c) {
        dot += q[RowOf(args.q, b, i, h) + c] * k[RowOf(args.k, b, j, h / group) + c];
      }
      const bool visible = !args.causal || args.k_begin + j <= args.q_begin + i;
      scores[static_cast<size_t>(j)] =
          visible ? args.scale * dot : -std::numeric_limits<double>::infinity();
      max = std::max(max, scores[static_cast<size_t>(j)]);
    }
    for (double& score : scores) {
      score = std::isinf(max) ? 0 : std::exp(score - max);
      sum += score;
    }
    for (int64_t j = 0; j < num_keys; ++j) {
      const double p = sum > 0 ? scores[static_cast<size_t>(j)] / sum : 0;
      result.probabilities.push_back(p);
      for (size_t c = 0; c < value_channels; ++c) {
        result.out[RowOf(args.out, b, i, h) + c] += p * v[RowOf(args.v, b, j, h / group) + c];
      }
    }
    result.lse.push_back(max + std::log(sum));
  });
  MUSTER_CHECK(static_cast<int64_t>(result.lse.size()) ==
               args.q.shape[0] * num_heads * num_queries);
  return result;
}

// The gradients, given the forward's inputs and the gradient of its output.
inline NaiveAttention NaiveAttentionBackward(const AttentionForwardArgs& args,
                                             const TensorView& d_out_view) {
  NaiveAttention result = NaiveAttentionForward(args);
  const std::vector<double> q = Values(args.q), k = Values(args.k), v = Values(args.v);
  const std::vector<double> d_out = Values(d_out_view);
  const int64_t num_keys = args.k.shape[1], group = args.q.shape[2] / args.k.shape[2];
  const size_t channels = static_cast<size_t>(args.q.shape[3]);
  const size_t value_channels = static_cast<size_t>(args.v.shape[3]);
  result.d_q.assign(q.size(), 0);
  result.d_k.assign(k.size(), 0);
  result.d_v.assign(v.size(), 0);
  auto p = result.probabilities.begin();
  ForEachQuery(args.q, [&](int64_t b, int64_t h, int64_t i) {
    const size_t query = RowOf(args.q, b, i, h), row = RowOf(args.out, b, i, h);
    double delta = 0;
    for (size_t c = 0; c < value_channels; ++c) delta += d_out[row + c] * result.out[row + c];
    for (int64_t j = 0; j < num_keys; ++j, ++p) {
      const size_t key = RowOf(args.k, b, j, h / group), value = RowOf(args.v, b, j, h / group);
      double d_p = 0;
      for (size_t c = 0; c < value_channels; ++c) {
        d_p += d_out[row + c] * v[value + c];
        result.d_v[value + c] += *p * d_out[row + c];
      }
      const double d_score = *p * (d_p - delta) * args.scale;
      for (size_t c = 0; c < channels; ++c) {
        result.d_q[query + c] += d_score * k[key + c];
        result.d_k[key + c] += d_score * q[query + c];
      }
    }
  });
  return result;
}

}  // namespace muster::kernels
