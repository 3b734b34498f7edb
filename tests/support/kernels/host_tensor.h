#pragma once
// Tensors of tests, in host memory: element access in fp64 whatever the dtype and the strides.
#include <gtest/gtest.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/base/rng.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels {

// Offset, in elements from view.data, of element `index` in row-major order of the shape.
inline int64_t OffsetOf(const TensorView& view, int64_t index) {
  int64_t offset = 0;
  for (int dim = view.rank() - 1; dim >= 0; --dim) {
    offset += index % view.shape[dim] * view.strides[dim];
    index /= view.shape[dim];
  }
  return offset;
}

inline double GetValue(const TensorView& view, int64_t index) {
  const int64_t offset = OffsetOf(view, index);
  switch (view.dtype) {
    case DType::kFloat32:
      return view.as<float>()[offset];
    case DType::kBFloat16:
      return static_cast<float>(view.as<BFloat16>()[offset]);
    case DType::kFloat64:
      return view.as<double>()[offset];
    case DType::kInt32:
      return view.as<int32_t>()[offset];
    case DType::kInt64:
      return static_cast<double>(view.as<int64_t>()[offset]);
    case DType::kUInt8:
      return view.as<uint8_t>()[offset];
  }
  return 0;
}

inline void SetValue(const TensorView& view, int64_t index, double value) {
  const int64_t offset = OffsetOf(view, index);
  switch (view.dtype) {
    case DType::kFloat32:
      view.as<float>()[offset] = static_cast<float>(value);
      break;
    case DType::kBFloat16:
      view.as<BFloat16>()[offset] = BFloat16(static_cast<float>(value));
      break;
    case DType::kFloat64:
      view.as<double>()[offset] = value;
      break;
    case DType::kInt32:
      view.as<int32_t>()[offset] = static_cast<int32_t>(value);
      break;
    case DType::kInt64:
      view.as<int64_t>()[offset] = static_cast<int64_t>(value);
      break;
    case DType::kUInt8:
      view.as<uint8_t>()[offset] = static_cast<uint8_t>(value);
      break;
  }
}

// All elements, row-major.
inline std::vector<double> Values(const TensorView& view) {
  std::vector<double> values(static_cast<size_t>(view.num_elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = GetValue(view, static_cast<int64_t>(i));
  return values;
}

// Fills in row-major order; the counts must agree.
inline void SetValues(const TensorView& view, const std::vector<double>& values) {
  MUSTER_CHECK(static_cast<int64_t>(values.size()) == view.num_elements());
  for (size_t i = 0; i < values.size(); ++i) SetValue(view, static_cast<int64_t>(i), values[i]);
}

// Approximately normal values, rounded to the dtype; a function of `name` only.
inline void FillRandom(const TensorView& view, std::string_view name, double std = 1.0) {
  const PhiloxKey key = MakePhiloxKey(1, name);
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    SetValue(view, i, std * NormalFromBlock(Philox(key, static_cast<uint64_t>(i))));
  }
}

// A zeroed tensor; the test program ends if there is no memory.
inline Tensor MakeTensor(DType dtype, Shape shape) {
  auto tensor = Tensor::Allocate(dtype, shape);
  MUSTER_CHECK_OK(tensor.status());
  return *std::move(tensor);
}

inline Tensor RandomTensor(DType dtype, Shape shape, std::string_view name, double std = 1.0) {
  Tensor tensor = MakeTensor(dtype, shape);
  FillRandom(tensor.view(), name, std);
  return tensor;
}

inline Tensor TensorOf(DType dtype, Shape shape, const std::vector<double>& values) {
  Tensor tensor = MakeTensor(dtype, shape);
  SetValues(tensor.view(), values);
  return tensor;
}

}  // namespace muster::kernels
