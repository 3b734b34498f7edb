#pragma once
// A stream for transfers that run beside the compute stream, with the events by which the two wait
// for each other. Made before step 1; who uses it leaves it idle (the compute stream has waited for
// all of it), so that several users may follow each other.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"

namespace muster::parallel {

class SideStream {
 public:
  static constexpr int kNumEvents = 8;
  // Errors: the device gives no stream or event.
  static absl::StatusOr<std::unique_ptr<SideStream>> Create(kernels::Device device,
                                                            std::string name);
  kernels::StreamView view() const { return stream_.view(); }
  kernels::EventView event(int i) const { return events_[static_cast<size_t>(i)].view(); }

 private:
  explicit SideStream(kernels::Stream stream) : stream_(std::move(stream)) {}
  kernels::Stream stream_;
  std::vector<kernels::Event> events_;
};

}  // namespace muster::parallel
