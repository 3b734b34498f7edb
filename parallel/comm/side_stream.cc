#include "parallel/comm/side_stream.h"

#include "kernels/base/error.h"

namespace muster::parallel {

absl::StatusOr<std::unique_ptr<SideStream>> SideStream::Create(kernels::Device device,
                                                               std::string name) {
  ASSIGN_OR_RETURN(kernels::Stream stream,
                   kernels::Stream::Create(device, kernels::StreamMode::kQueue, std::move(name),
                                           kernels::StreamPriority::kHigh));
  std::unique_ptr<SideStream> side(new SideStream(std::move(stream)));
  for (int i = 0; i < kNumEvents; ++i) {
    ASSIGN_OR_RETURN(kernels::Event event, kernels::Event::Create(device));
    side->events_.push_back(std::move(event));
  }
  return side;
}

}  // namespace muster::parallel
