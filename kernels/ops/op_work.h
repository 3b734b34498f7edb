#pragma once
// What an operator has to do at least: the FLOPs of its products (2 M N K; causal attention counted
// half), and the bytes of its tensors, each read or written once, in place both. For traces and
// benchmarks: an operator cannot end before its FLOPs at the rate of matrix products, nor before
// its bytes at the rate of a copy. Operators whose work depends on values on the device (those of
// routing) are not counted.
#include "kernels/device/trace.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/digest.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/swiglu.h"

namespace muster::kernels {

template <typename Args>
TracedWork WorkOf(const Args&) {
  return {};
}
TracedWork WorkOf(const AdamWArgs& args);
TracedWork WorkOf(const AddArgs& args);
TracedWork WorkOf(const AttentionForwardArgs& args);
TracedWork WorkOf(const AttentionBackwardArgs& args);
TracedWork WorkOf(const CastArgs& args);
TracedWork WorkOf(const ColumnSumArgs& args);
TracedWork WorkOf(const CrossEntropyBackwardArgs& args);
TracedWork WorkOf(const CrossEntropyStatsArgs& args);
TracedWork WorkOf(const DigestArgs& args);
TracedWork WorkOf(const EmbeddingForwardArgs& args);
TracedWork WorkOf(const EmbeddingBackwardArgs& args);
TracedWork WorkOf(const GeluForwardArgs& args);
TracedWork WorkOf(const GeluBackwardArgs& args);
TracedWork WorkOf(const LayerNormForwardArgs& args);
TracedWork WorkOf(const LayerNormBackwardArgs& args);
TracedWork WorkOf(const MatmulArgs& args);
TracedWork WorkOf(const RmsNormForwardArgs& args);
TracedWork WorkOf(const RmsNormBackwardArgs& args);
TracedWork WorkOf(const RopeArgs& args);
TracedWork WorkOf(const SumArgs& args);
TracedWork WorkOf(const SumOfSquaresArgs& args);
TracedWork WorkOf(const SumSlicesArgs& args);
TracedWork WorkOf(const SwiGluForwardArgs& args);
TracedWork WorkOf(const SwiGluBackwardArgs& args);

}  // namespace muster::kernels
