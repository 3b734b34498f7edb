#pragma once
// Shape, TensorView and Tensor. A view is a pointer with type, shape, strides and device: it copies
// freely and owns nothing. Tensor owns its memory and moves. Most tensors of a job are views into
// the arena (kernels/tensor/arena.h).
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/device/device.h"
#include "kernels/device/memory.h"

namespace muster::kernels {

constexpr int kMaxRank = 5;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    MUSTER_CHECK(dims.size() <= kMaxRank);
    for (int64_t dim : dims) dims_[static_cast<size_t>(rank_++)] = dim;
  }
  int rank() const { return rank_; }
  int64_t operator[](int dim) const { return dims_[static_cast<size_t>(dim)]; }
  void set(int dim, int64_t size) { dims_[static_cast<size_t>(dim)] = size; }
  int64_t num_elements() const {
    int64_t product = 1;
    for (int dim = 0; dim < rank_; ++dim) product *= dims_[static_cast<size_t>(dim)];
    return product;
  }
  std::string ToString() const;  // "[4, 128]"
  friend bool operator==(const Shape& a, const Shape& b) = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  Device device;
  Shape shape;
  Shape strides;  // in elements; the same rank as shape

  TensorView() = default;
  // Contiguous (row-major).
  TensorView(void* data, DType dtype, Shape shape, Device device = {});

  explicit operator bool() const { return data != nullptr; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t bytes() const { return num_elements() * SizeOf(dtype); }
  int rank() const { return shape.rank(); }
  bool IsContiguous() const;
  // Elements [begin, end) of `dim`; shares memory.
  TensorView Slice(int dim, int64_t begin, int64_t end) const;
  // The same elements under another shape. CHECKs: contiguous, equal count.
  TensorView Reshape(Shape new_shape) const;
  // Typed pointer; CHECKs that T is the element type.
  template <typename T>
  T* as() const {
    MUSTER_CHECK(DTypeOf<T>::value == dtype)
        << "tensor is " << Name(dtype) << ", wanted " << Name(DTypeOf<T>::value);
    return static_cast<T*>(data);
  }
  std::string ToString() const;  // "fp32[4, 128] on cpu"
};

class Tensor {
 public:
  Tensor() = default;
  // Zeroed. Errors: out of memory.
  static absl::StatusOr<Tensor> Allocate(DType dtype, Shape shape, Device device = {});
  const TensorView& view() const { return view_; }

 private:
  DeviceBuffer buffer_;
  TensorView view_;
};

// Copies between tensors of equal shape and dtype, both contiguous, on any devices.
void CopyAsync(const TensorView& destination, const TensorView& source, StreamView stream);
void FillZeroAsync(const TensorView& tensor, StreamView stream);

}  // namespace muster::kernels
