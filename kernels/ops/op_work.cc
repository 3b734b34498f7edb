#include "kernels/ops/op_work.h"

#include <initializer_list>

#include "absl/strings/str_cat.h"

namespace muster::kernels {
namespace {

double Elements(const TensorView& x) { return static_cast<double>(x.num_elements()); }

// Absent tensors count nothing.
double Bytes(std::initializer_list<const TensorView*> tensors) {
  double bytes = 0;
  for (const TensorView* x : tensors) bytes += *x ? static_cast<double>(x->bytes()) : 0;
  return bytes;
}

std::string Dims(const TensorView& x) {
  std::string text;
  for (int dim = 0; dim < x.rank(); ++dim) {
    absl::StrAppend(&text, dim > 0 ? " x " : "", x.shape[dim]);
  }
  return text;
}

std::string Ranges(const RangeTable& table) {
  return absl::StrCat(table.num_elements, " in ", table.num_ranges, " ranges");
}

TracedWork Moves(std::initializer_list<const TensorView*> tensors, const TensorView& named) {
  return {.bytes = Bytes(tensors), .detail = Dims(named)};
}

// Of attention's matrix products, `products` have the head size of q and k, `value_products` that
// of v and out: B H Sq Sk C multiplications each.
template <typename Args>
TracedWork AttentionWork(const Args& args, double products, double value_products, double bytes) {
  const Shape& q = args.q.shape;
  const int64_t value_head_size = args.v.shape[3];
  const double multiplications = products * Elements(args.q) + value_products * Elements(args.out);
  const std::string value_part = value_head_size == q[3] ? "" : absl::StrCat("/", value_head_size);
  return {.flops = 2 * multiplications * static_cast<double>(args.k.shape[1]) *
                   (args.causal ? 0.5 : 1.0),
          .bytes = bytes,
          .detail = absl::StrCat("b", q[0], " s", q[1], " h", q[2], "/", args.k.shape[2], " d",
                                 q[3], value_part, args.causal ? " causal" : "")};
}

}  // namespace

TracedWork WorkOf(const AdamWArgs& args) {
  const DType accumulator = AccumulatorDType(args.weight_dtype);
  const int64_t apart = args.weight_dtype == accumulator ? 0 : SizeOf(args.weight_dtype);
  return {.bytes = static_cast<double>(args.table.num_elements * (7 * SizeOf(accumulator) + apart)),
          .detail = Ranges(args.table)};
}
TracedWork WorkOf(const AddArgs& args) { return Moves({&args.a, &args.b, &args.out}, args.out); }
TracedWork WorkOf(const AttentionForwardArgs& args) {
  return AttentionWork(args, 1, 1, Bytes({&args.q, &args.k, &args.v, &args.out}));
}
TracedWork WorkOf(const AttentionBackwardArgs& args) {
  return AttentionWork(
      args, 3, 2,
      Bytes({&args.d_out, &args.q, &args.k, &args.v, &args.out, &args.d_q, &args.d_k, &args.d_v}));
}
TracedWork WorkOf(const CastArgs& args) { return Moves({&args.x, &args.out}, args.x); }
TracedWork WorkOf(const ColumnSumArgs& args) { return Moves({&args.x}, args.x); }
TracedWork WorkOf(const CrossEntropyBackwardArgs& args) {
  return Moves({&args.logits, &args.logits}, args.logits);
}
TracedWork WorkOf(const CrossEntropyStatsArgs& args) { return Moves({&args.logits}, args.logits); }
TracedWork WorkOf(const DigestArgs& args) {
  return {.bytes = static_cast<double>(args.table.num_elements * SizeOf(args.x.dtype)),
          .detail = Ranges(args.table)};
}
TracedWork WorkOf(const EmbeddingForwardArgs& args) {
  return Moves({&args.out, &args.out}, args.out);
}
// At least d_out once: how many rows of the table are touched depends on the tokens.
TracedWork WorkOf(const EmbeddingBackwardArgs& args) { return Moves({&args.d_out}, args.d_out); }
TracedWork WorkOf(const GeluForwardArgs& args) { return Moves({&args.x, &args.out}, args.x); }
TracedWork WorkOf(const GeluBackwardArgs& args) {
  return Moves({&args.d_out, &args.x, &args.d_x}, args.x);
}
TracedWork WorkOf(const LayerNormForwardArgs& args) {
  return Moves({&args.x, &args.residual, &args.h, &args.y}, args.x);
}
TracedWork WorkOf(const LayerNormBackwardArgs& args) {
  return Moves({&args.d_y, &args.h, &args.d_residual, &args.d_h}, args.h);
}
TracedWork WorkOf(const MatmulArgs& args) {
  const int64_t k = args.a.shape[args.a_transposed ? 0 : 1];
  return {.flops = 2.0 * Elements(args.c) * static_cast<double>(k),
          .bytes = Bytes({&args.a, &args.b, &args.c}) + (args.accumulate ? Bytes({&args.c}) : 0),
          .detail = absl::StrCat(Dims(args.c), " x ", k, " ", args.a_transposed ? "T" : "N",
                                 args.b_transposed ? "T" : "N")};
}
TracedWork WorkOf(const RmsNormForwardArgs& args) {
  return Moves({&args.x, &args.residual, &args.h, &args.y}, args.x);
}
TracedWork WorkOf(const RmsNormBackwardArgs& args) {
  return Moves({&args.d_y, &args.h, &args.d_residual, &args.d_h}, args.h);
}
TracedWork WorkOf(const RopeArgs& args) { return Moves({&args.x, &args.x}, args.x); }
TracedWork WorkOf(const SumArgs& args) { return Moves({&args.x}, args.x); }
TracedWork WorkOf(const SumOfSquaresArgs& args) {
  return {.bytes = static_cast<double>(args.table.num_elements * SizeOf(args.dtype)),
          .detail = Ranges(args.table)};
}
TracedWork WorkOf(const SumSlicesArgs& args) { return Moves({&args.inputs, &args.out}, args.out); }
TracedWork WorkOf(const SwiGluForwardArgs& args) {
  return Moves({&args.gate_up, &args.out}, args.out);
}
TracedWork WorkOf(const SwiGluBackwardArgs& args) {
  return Moves({&args.d_out, &args.gate_up, &args.d_gate_up}, args.d_out);
}

}  // namespace muster::kernels
