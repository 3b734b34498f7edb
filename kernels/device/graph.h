#pragma once
// Work of a stream, recorded once and enqueued as a whole as often as wanted: a CUDA graph, or on
// the CPU the list of what was enqueued. A launch spares the host, and on CUDA most of the time
// between two kernels.
//
// What is recorded keeps its arguments: pointers, sizes and scalars are those of the recording.
// Between Begin and End the stream takes operators, copies and fills of this stream alone, which do
// not run; events, host work and memory have no place there and are errors that End returns.
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"

namespace muster::kernels {

class Graph {
 public:
  Graph() = default;  // of no work

  // What the calling thread enqueues on `stream` from here on is recorded.
  static absl::Status Begin(StreamView stream);
  // Ends the recording, whether or not it succeeded. Errors: what cannot be recorded was enqueued;
  // the driver's.
  static absl::StatusOr<Graph> End(StreamView stream);

  // Enqueues the recorded work, on a stream of the device it was recorded on; an error is left in
  // the stream. The graph must outlive its run.
  void Launch(StreamView stream) const;

 private:
  explicit Graph(std::unique_ptr<RecordedWork> work) : work_(std::move(work)) {}
  std::unique_ptr<RecordedWork> work_;
};

}  // namespace muster::kernels
