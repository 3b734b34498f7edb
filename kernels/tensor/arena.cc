#include "kernels/tensor/arena.h"

#include <algorithm>

namespace muster::kernels {
namespace {

int64_t AlignedBytes(DType dtype, const Shape& shape) {
  const int64_t bytes = shape.num_elements() * SizeOf(dtype);
  return (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment;
}

}  // namespace

void ArenaPlan::Add(TensorView* view, std::string name, DType dtype, Shape shape,
                    Lifetime lifetime) {
  const int64_t bytes = AlignedBytes(dtype, shape);
  int64_t offset = 0;
  if (lifetime == Lifetime::kScratch) {
    MUSTER_CHECK(open_scopes_ > 0) << "scratch tensor " << name << " added outside a ScratchScope";
    offset = scratch_top_;
    scratch_top_ += bytes;
    scratch_peak_ = std::max(scratch_peak_, scratch_top_);
  } else {
    offset = held_bytes_;
    held_bytes_ += bytes;
  }
  blocks_.push_back({std::move(name), lifetime, dtype, shape, offset, view});
}

int64_t ArenaPlan::bytes(Lifetime lifetime) const {
  if (lifetime == Lifetime::kScratch) return scratch_peak_;
  int64_t sum = 0;
  for (const Block& block : blocks_) {
    if (block.lifetime == lifetime) sum += AlignedBytes(block.dtype, block.shape);
  }
  return sum;
}

std::string ArenaPlan::Describe(int most) const {
  std::vector<const Block*> order;
  for (const Block& block : blocks_) order.push_back(&block);
  std::stable_sort(order.begin(), order.end(), [](const Block* a, const Block* b) {
    return AlignedBytes(a->dtype, a->shape) > AlignedBytes(b->dtype, b->shape);
  });
  std::string text;
  for (size_t i = 0; i < order.size() && i < static_cast<size_t>(most); ++i) {
    const Block& block = *order[i];
    text += "  " + std::to_string(AlignedBytes(block.dtype, block.shape)) + " bytes  " +
            block.name + " " + Name(block.dtype) + block.shape.ToString() + "\n";
  }
  return text;
}

absl::StatusOr<Arena> Arena::Allocate(const ArenaPlan& plan, Device device) {
  Arena arena;
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(device, plan.total_bytes());
  if (!buffer.ok()) {
    return Annotate(buffer.status(), "the memory plan of " + std::to_string(plan.total_bytes()) +
                                         " bytes does not fit; its biggest blocks are\n" +
                                         plan.Describe(8));
  }
  arena.buffer_ = *std::move(buffer);
  Bind(plan, arena.buffer_.data(), device);
  return arena;
}

void Arena::Bind(const ArenaPlan& plan, void* base, Device device) {
  char* begin = static_cast<char*>(base);
  for (const ArenaPlan::Block& block : plan.blocks_) {
    const int64_t start = block.lifetime == Lifetime::kScratch ? plan.held_bytes_ : 0;
    *block.bound = TensorView(begin + start + block.offset_bytes, block.dtype, block.shape, device);
  }
}

}  // namespace muster::kernels
