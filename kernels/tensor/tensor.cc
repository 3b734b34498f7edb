#include "kernels/tensor/tensor.h"

namespace muster::kernels {

std::string Shape::ToString() const {
  std::string text = "[";
  for (int dim = 0; dim < rank_; ++dim) {
    if (dim > 0) text += ", ";
    text += std::to_string((*this)[dim]);
  }
  return text + "]";
}

TensorView::TensorView(void* data, DType dtype, Shape shape, Device device)
    : data(data), dtype(dtype), device(device), shape(shape), strides(shape) {
  int64_t stride = 1;
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    strides.set(dim, stride);
    stride *= shape[dim];
  }
}

bool TensorView::IsContiguous() const {
  int64_t stride = 1;
  for (int dim = rank() - 1; dim >= 0; --dim) {
    if (shape[dim] != 1 && strides[dim] != stride) return false;
    stride *= shape[dim];
  }
  return true;
}

TensorView TensorView::Slice(int dim, int64_t begin, int64_t end) const {
  MUSTER_CHECK(dim >= 0 && dim < rank() && 0 <= begin && begin <= end && end <= shape[dim])
      << "slice [" << begin << ", " << end << ") of dim " << dim << " of " << ToString();
  TensorView slice = *this;
  slice.data = static_cast<char*>(data) + begin * strides[dim] * SizeOf(dtype);
  slice.shape.set(dim, end - begin);
  return slice;
}

TensorView TensorView::Reshape(Shape new_shape) const {
  MUSTER_CHECK(IsContiguous() && new_shape.num_elements() == num_elements())
      << ToString() << " reshaped to " << new_shape.ToString();
  return TensorView(data, dtype, new_shape, device);
}

std::string TensorView::ToString() const {
  return std::string(Name(dtype)) + shape.ToString() + " on " + Name(device);
}

absl::StatusOr<Tensor> Tensor::Allocate(DType dtype, Shape shape, Device device) {
  Tensor tensor;
  ASSIGN_OR_RETURN(tensor.buffer_,
                   DeviceBuffer::Allocate(device, shape.num_elements() * SizeOf(dtype)));
  tensor.view_ = TensorView(tensor.buffer_.data(), dtype, shape, device);
  return tensor;
}

void CopyAsync(const TensorView& destination, const TensorView& source, StreamView stream) {
  MUSTER_CHECK(destination.dtype == source.dtype && destination.shape == source.shape &&
               destination.IsContiguous() && source.IsContiguous())
      << source.ToString() << " copied to " << destination.ToString();
  CopyAsync(destination.data, source.data, source.bytes(), stream);
}

void FillZeroAsync(const TensorView& tensor, StreamView stream) {
  MUSTER_CHECK(tensor.IsContiguous());
  FillZeroAsync(tensor.data, tensor.bytes(), stream);
}

}  // namespace muster::kernels
