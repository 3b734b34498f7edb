#include "kernels/ops/matmul_notes.h"

#include "kernels/base/error.h"

namespace muster::kernels {

MatmulNotes::~MatmulNotes() {
  for (const StreamView& stream : attached_) stream.AttachNotes(nullptr, /*dry=*/false);
}

void MatmulNotes::Attach(StreamView stream, bool dry) {
  MUSTER_CHECK(!dry || stream.device().type == DeviceType::kCpu)
      << "a dry stream on " << Name(stream.device());
  stream.AttachNotes(this, dry);
  attached_.push_back(stream);
}

void MatmulNotes::Note(const MatmulArgs& args) {
  CheckArgs(args);
  MUSTER_CHECK_OK(ForEachPart(args, [this](const MatmulArgs& part) {
    const MatmulKey key = MatmulKey::Of(part);
    if (key.flops() > 0) keys_.insert(key);
    return absl::OkStatus();
  }));
}

}  // namespace muster::kernels
