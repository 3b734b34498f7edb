#pragma once
// One op = one header + cpu/<op>.cc + cuda/<op>.cu. The header holds the contract: formula and its
// source, shapes, accumulation type, aliasing, determinism. MUSTER_DECLARE_OP(Name) declares
//
//   kernels::Name(const NameArgs&, StreamView)    what callers use: checks, enqueues and returns
//   kernels::cpu::Name(const NameArgs&)           the specification, run in stream order on the
//   host kernels::cuda::Name(const NameArgs&, StreamView) kernels::CheckArgs(const NameArgs&) the
//   contract's shapes and dtypes, for both
//
// kernels/ops/dispatch.cc, the one dispatch point, picks by the stream's device; the
// implementation picks by dtype. Unless a header says otherwise, ops accumulate in fp32 (fp64 for
// fp64 tensors), are deterministic, want contiguous tensors of equal storage dtype (fp32, bf16, or
// fp64 on CPU), and outputs alias no input. A wrong shape or dtype is our bug and CHECK-fails.
//
// Shape letters: T tokens of the microbatch, D hidden, H query heads, K key/value heads, C head
// size, F feed-forward hidden, V vocabulary (of this shard), E experts (of this rank), R routed
// rows (a planned bound; the count in use is on the device), k experts per token.
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

#define MUSTER_DECLARE_OP(Name)                         \
  void Name(const Name##Args& args, StreamView stream); \
  void CheckArgs(const Name##Args& args);               \
  namespace cpu {                                       \
  void Name(const Name##Args& args);                    \
  }                                                     \
  namespace cuda {                                      \
  void Name(const Name##Args& args, StreamView stream); \
  }
