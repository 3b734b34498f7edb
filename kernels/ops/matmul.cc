#include "kernels/ops/matmul.h"

#include "kernels/ops/check_args.h"

namespace muster::kernels {
namespace {

// Two dims, contiguous rows, no row over another.
void CheckMatrix(const char* name, const TensorView& x, DType dtype, int64_t rows,
                 int64_t columns) {
  MUSTER_CHECK(x.dtype == dtype && x.shape == Shape({rows, columns}))
      << "Matmul: argument " << name << " wants " << Name(dtype)
      << Shape({rows, columns}).ToString() << ", found " << x.ToString();
  MUSTER_CHECK(x.data != nullptr || x.num_elements() == 0)
      << "Matmul: argument " << name << " is missing";
  MUSTER_CHECK((columns <= 1 || x.strides[1] == 1) && (rows <= 1 || x.strides[0] >= columns))
      << "Matmul: argument " << name << " wants contiguous rows, found strides "
      << x.strides.ToString() << " for " << x.ToString();
}

}  // namespace

void CheckArgs(const MatmulArgs& args) {
  MUSTER_CHECK(args.a.rank() == 2 && args.c.rank() == 2)
      << "Matmul wants matrices, found a " << args.a.ToString() << ", c " << args.c.ToString();
  const DType storage = args.a.dtype;
  MUSTER_CHECK(storage == DType::kFloat32 || storage == DType::kBFloat16 ||
               storage == DType::kFloat64)
      << "Matmul: argument a wants fp32, bf16 or fp64, found " << args.a.ToString();
  MUSTER_CHECK(args.c.dtype == storage || args.c.dtype == AccumulatorDType(storage))
      << "Matmul: argument c wants " << Name(storage) << " or " << Name(AccumulatorDType(storage))
      << ", found " << args.c.ToString();
  const int64_t m = args.c.shape[0], n = args.c.shape[1];
  const int64_t k = args.a.shape[args.a_transposed ? 0 : 1];
  CheckMatrix("a", args.a, storage, args.a_transposed ? k : m, args.a_transposed ? m : k);
  CheckMatrix("b", args.b, storage, args.b_transposed ? n : k, args.b_transposed ? k : n);
  CheckMatrix("c", args.c, args.c.dtype, m, n);
  CheckOptional("Matmul", "bias", args.bias, args.c.dtype, {n});
  MUSTER_CHECK(!args.bias || !args.accumulate) << "Matmul: a bias with accumulate is not defined";
}

}  // namespace muster::kernels
