// Conversions and initial values, one pass each. Random values use integer arithmetic and exact
// scalings only (kernels/base/rng.h), so they equal the CPU's bit by bit.
#include "kernels/ops/cast.h"
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

template <typename From, typename To>
struct Convert {
  const From* x;
  To* out;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    float values[kWidth];
    LoadFloats(x + at, values);
    StoreFloats(out + at, values);
  }
};

template <typename T>
struct SetAll {
  T* x;
  T value;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    Pack<T, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.v[i] = value;
    *reinterpret_cast<Pack<T, kWidth>*>(x + at) = pack;
  }
};

struct Extent {
  int rank;
  int64_t size[kMaxRank], begin[kMaxRank], global_size[kMaxRank];

  // The row-major index in the global tensor of element `at` of this part of it.
  __device__ uint64_t GlobalIndex(int64_t at) const {
    int64_t index = 0, stride = 1;
    for (int dim = rank - 1; dim >= 0; --dim) {
      index += (begin[dim] + at % size[dim]) * stride;
      at /= size[dim];
      stride *= global_size[dim];
    }
    return static_cast<uint64_t>(index);
  }
};

template <typename T>
struct SetNormal {
  T* x;
  Extent extent;
  PhiloxKey key;
  float std;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    float values[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[i] = NormalFromBlock(Philox(key, extent.GlobalIndex(at + i))) * std;
    }
    StoreFloats(x + at, values);
  }
};

Extent ExtentOf(const FillNormalArgs& args) {
  Extent extent{.rank = args.x.rank()};
  for (int dim = 0; dim < extent.rank; ++dim) {
    extent.size[dim] = args.x.shape[dim];
    extent.begin[dim] = args.begin[dim];
    extent.global_size[dim] = args.global_shape[dim];
  }
  return extent;
}

}  // namespace

void Cast(const CastArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("Cast", args.x.dtype, stream, [&](auto from) {
    SwitchStorage("Cast", args.out.dtype, stream, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      const Convert<From, To> convert{Elements<From>(args.x), Elements<To>(args.out)};
      RunFlat<kVectorOf<BF16>>("Cast", args.x.num_elements(), {convert.x, convert.out}, convert,
                               stream);
    });
  });
}

void Fill(const FillArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("Fill", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    SetAll<T> set{.x = Elements<T>(args.x)};
    if constexpr (std::is_same_v<T, BF16>) {
      set.value = __double2bfloat16(args.value);
    } else {
      set.value = static_cast<float>(args.value);
    }
    RunFlat<kVectorOf<T>>("Fill", args.x.num_elements(), {set.x}, set, stream);
  });
}

void FillNormal(const FillNormalArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("FillNormal", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const SetNormal<T> set{Elements<T>(args.x), ExtentOf(args), args.key, args.std};
    RunFlat<kVectorOf<T>>("FillNormal", args.x.num_elements(), {set.x}, set, stream);
  });
}

}  // namespace muster::kernels::cuda
