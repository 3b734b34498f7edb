#include "kernels/device/graph.h"

#include <utility>

#include "kernels/base/error.h"

namespace muster::kernels {

absl::Status Graph::Begin(StreamView stream) {
  MUSTER_CHECK(!stream.records()) << "a recording of " << Name(stream.device()) << " is under way";
  return stream.state().BeginRecording();
}

absl::StatusOr<Graph> Graph::End(StreamView stream) {
  MUSTER_CHECK(stream.records()) << "no recording of " << Name(stream.device()) << " was begun";
  ASSIGN_OR_RETURN(auto work, stream.state().EndRecording());
  return Graph(std::move(work));
}

void Graph::Launch(StreamView stream) const {
  if (work_ != nullptr) stream.state().Launch(*work_);
}

}  // namespace muster::kernels
