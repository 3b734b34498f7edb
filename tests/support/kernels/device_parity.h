#pragma once
// One case, run on the CPU and on a CUDA device, and compared. A case is a function of a Place; the
// Place puts copies of the case's host tensors where the run happens.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/support/kernels/on_cuda.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {

class Place {
 public:
  // `shift` elements between an aligned address and the first element of every tensor.
  explicit Place(Device device, int64_t shift = 0) : shift_(shift) {
    auto stream = Stream::Create(
        device, device.type == DeviceType::kCpu ? StreamMode::kInline : StreamMode::kQueue,
        "parity");
    MUSTER_CHECK_OK(stream.status());
    stream_.emplace_back(*std::move(stream));
  }
  StreamView stream() const { return stream_.front().view(); }

  // This place's copy of a contiguous host tensor, always the same one; null of null.
  TensorView operator()(const TensorView& host) {
    if (!host) return {};
    auto [found, is_new] = tensors_.try_emplace(host.data);
    Placed& placed = found->second;
    if (is_new) {
      auto memory = Tensor::Allocate(host.dtype, {host.num_elements() + shift_}, stream().device());
      MUSTER_CHECK_OK(memory.status());
      placed.memory = *std::move(memory);
      placed.view =
          placed.memory.view().Slice(0, shift_, shift_ + host.num_elements()).Reshape(host.shape);
      CopyAsync(placed.view, host, stream());
      MUSTER_CHECK_OK(stream().Synchronize());
    }
    return placed.view;
  }
  TensorView operator()(const Tensor& host) { return (*this)(host.view()); }

  // What this place's copy of `host` holds once all work has run.
  Tensor Read(const TensorView& host) {
    const absl::Status status = stream().Synchronize();
    EXPECT_TRUE(status.ok()) << status.ToString();
    return CopyToHost((*this)(host), stream());
  }

 private:
  struct Placed {
    Tensor memory;
    TensorView view;
  };
  int64_t shift_;
  std::vector<Stream> stream_;
  std::map<void*, Placed> tensors_;
};

inline bool BitsEqual(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.view().data, b.view().data, static_cast<size_t>(a.view().bytes())) == 0;
}

struct Expectation {
  TensorView output;
  bool same_bits = false;      // as the CPU's; else close by `tolerance`
  Tolerance tolerance = {-1};  // negative: that of the dtype
};
inline Expectation Close(const Tensor& output) { return {.output = output.view()}; }
inline Expectation Close(const Tensor& output, Tolerance tolerance) {
  return {.output = output.view(), .tolerance = tolerance};
}
inline Expectation SameBits(const Tensor& output) {
  return {.output = output.view(), .same_bits = true};
}

// Runs the case on the CPU and twice on the device, with tensors aligned and not. The device must
// give the CPU's values, and give the same bits both times.
template <typename Case>
void ExpectParity(const Case& run, const std::vector<Expectation>& expectations) {
  Place cpu{Device{}};
  run(cpu);
  for (const int64_t shift : {0, 1}) {
    SCOPED_TRACE(shift == 0 ? "aligned" : "not aligned");
    Place cuda(kCuda0, shift), again(kCuda0, shift);
    run(cuda);
    run(again);
    for (size_t i = 0; i < expectations.size(); ++i) {
      SCOPED_TRACE("output " + std::to_string(i));
      const Expectation& expected = expectations[i];
      const Tensor wanted = cpu.Read(expected.output), found = cuda.Read(expected.output);
      EXPECT_TRUE(BitsEqual(found, again.Read(expected.output))) << "two runs differ";
      const Tolerance tolerance = expected.same_bits ? Tolerance{0, 0}
                                  : expected.tolerance.relative < 0
                                      ? ToleranceOf(expected.output.dtype)
                                      : expected.tolerance;
      EXPECT_TRUE(IsClose(found.view(), Values(wanted.view()), tolerance));
      EXPECT_TRUE(!expected.same_bits || BitsEqual(found, wanted)) << "not the CPU's bits";
    }
  }
}

}  // namespace muster::kernels
