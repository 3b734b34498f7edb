#pragma once
// From the shape of rows to the kernel instance that holds one in registers.
#include "kernels/ops/cuda/launch.cuh"

namespace muster::kernels::cuda {

// Calls body(width, per_thread, shape), both std::integral_constants: 16-byte vectors where `bases`
// and the row's length allow, else single elements. Rows too long for the registers of 1024 threads
// (32,768 bf16, 16,384 fp32 or unaligned elements) leave an Unimplemented error in the stream.
template <typename T, typename Body>
void SwitchRow(const char* op, int64_t rows, int64_t row_elements,
               std::initializer_list<const void*> bases, StreamView stream, Body&& body) {
  const bool vectorize = CanVectorize(row_elements * static_cast<int64_t>(sizeof(T)), bases);
  const RowShape shape =
      PickRowShape(rows, vectorize ? row_elements / kVectorOf<T> : row_elements, !vectorize);
  constexpr std::integral_constant<int, kVectorOf<T>> kVector;
  switch (shape.per_thread) {
    case 1:
      return body(kVector, std::integral_constant<int, 1>{}, shape.launch);
    case 2:
      return body(kVector, std::integral_constant<int, 2>{}, shape.launch);
    case 4:
      return body(kVector, std::integral_constant<int, 4>{}, shape.launch);
    case 16:
      return body(std::integral_constant<int, 1>{}, std::integral_constant<int, 16>{},
                  shape.launch);
    default:
      FailUnimplemented(op, "rows of " + std::to_string(row_elements) + " elements", stream);
  }
}

}  // namespace muster::kernels::cuda
