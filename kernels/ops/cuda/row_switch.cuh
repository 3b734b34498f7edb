#pragma once
// From the shape of rows to the kernel instance that holds one in registers.
#include "kernels/ops/cuda/launch.cuh"

namespace muster::kernels::cuda {

// Calls body(width, per_thread, threads, shape), the first three std::integral_constants: 16-byte
// vectors where `bases` and the row's length allow, else single elements. The body's kernel is
// compiled for blocks of up to `threads` threads (__launch_bounds__): 256, whose registers hold
// 8,192 bf16 or 4,096 fp32 elements without spilling, and only for longer rows 1024, a block of
// which could not start with as many registers a thread. Rows too long for 1024 threads (32,768
// bf16, 16,384 fp32 or unaligned elements) leave an Unimplemented error in the stream.
template <typename T, typename Body>
void SwitchRow(const char* op, int64_t rows, int64_t row_elements,
               std::initializer_list<const void*> bases, StreamView stream, Body&& body) {
  const bool vectorize = CanVectorize(row_elements * static_cast<int64_t>(sizeof(T)), bases);
  const RowShape shape =
      PickRowShape(rows, vectorize ? row_elements / kVectorOf<T> : row_elements, !vectorize);
  constexpr std::integral_constant<int, kVectorOf<T>> kVector;
  constexpr std::integral_constant<int, 1> kScalar;
  constexpr std::integral_constant<int, kFlatThreads> kShort;
  constexpr std::integral_constant<int, kMaxThreads> kLong;
  const bool is_long = shape.launch.threads_x * shape.launch.threads_y > kFlatThreads;
  switch (shape.per_thread) {
    case 1:
      return body(kVector, std::integral_constant<int, 1>{}, kShort, shape.launch);
    case 2:
      return body(kVector, std::integral_constant<int, 2>{}, kShort, shape.launch);
    case 4:
      return is_long ? body(kVector, std::integral_constant<int, 4>{}, kLong, shape.launch)
                     : body(kVector, std::integral_constant<int, 4>{}, kShort, shape.launch);
    case 16:
      return is_long ? body(kScalar, std::integral_constant<int, 16>{}, kLong, shape.launch)
                     : body(kScalar, std::integral_constant<int, 16>{}, kShort, shape.launch);
    default:
      FailUnimplemented(op, "rows of " + std::to_string(row_elements) + " elements", stream);
  }
}

}  // namespace muster::kernels::cuda
