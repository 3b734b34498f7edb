#include "runtime/train/recorded_passes.h"

#include <utility>

#include "kernels/base/error.h"

namespace muster::runtime {

using kernels::Graph;
using kernels::StreamView;
using kernels::TensorView;
using parallel::ParameterId;

void RecordedPasses::BeginStep(int64_t global_valid_tokens) {
  if (std::exchange(valid_tokens_, global_valid_tokens) == global_valid_tokens) return;
  for (auto& [key, pass] : passes_) pass.pieces.clear();
}

absl::Status RecordedPasses::Run(Direction direction, int microbatch, StreamView compute,
                                 const std::function<absl::Status()>& run) {
  Pass& pass = passes_[{direction, microbatch}];
  if (!std::exchange(pass.ran, true) || compute.trace() != nullptr) return run();
  if (pass.pieces.empty()) {
    direction_ = direction;
    return RecordPass(pass, compute, run);
  }
  LaunchPass(pass, compute);
  ++num_launched_;
  return absl::OkStatus();
}

absl::Status RecordedPasses::RecordPass(Pass& pass, StreamView compute,
                                        const std::function<absl::Status()>& run) {
  used_.assign(layout_.buckets.size(), false);
  missing_.clear();
  for (const parallel::Bucket& bucket : layout_.buckets) {
    missing_.push_back(static_cast<int>(bucket.slices.size()));
  }
  piece_buckets_ = 0;
  piece_limit_ = 1;
  failure_ = absl::OkStatus();
  settle_(compute);
  recording_ = &pass;
  BeginPiece(compute);
  absl::Status status = run();
  EndPiece(compute);
  recording_ = nullptr;
  if (status.ok()) status = failure_;
  if (!status.ok()) pass.pieces.clear();
  return kernels::Annotate(status, "recording a pass (schedule.graphs)");
}

void RecordedPasses::BeginPiece(StreamView compute) {
  recording_->pieces.emplace_back();
  const absl::Status status = Graph::Begin(compute);
  if (failure_.ok()) failure_ = status;
}

// What was recorded has not run: it does now.
void RecordedPasses::EndPiece(StreamView compute) {
  if (!compute.records()) return;
  absl::StatusOr<Graph> graph = Graph::End(compute);
  if (!graph.ok()) {
    if (failure_.ok()) failure_ = graph.status();
    return;
  }
  recording_->pieces.back().graph = *std::move(graph);
  recording_->pieces.back().graph.Launch(compute);
}

void RecordedPasses::LaunchPass(const Pass& pass, StreamView compute) {
  for (const Piece& piece : pass.pieces) {
    for (const Call& call : piece.calls) {
      if (call.told == Told::kUse) hooks_.Use(call.id, compute);
      if (call.told == Told::kContribute) {
        const bool adds = hooks_.Contribute(call.id, compute);
        MUSTER_CHECK_EQ(adds, call.adds)
            << "whether the gradient of " << layout_.parameter_names[static_cast<size_t>(call.id)]
            << " is added to has changed since its pass was recorded";
      }
    }
    piece.graph.Launch(compute);
    for (const Call& call : piece.calls) {
      if (call.told == Told::kReady) hooks_.Ready(call.id, compute);
    }
  }
}

void RecordedPasses::CountUse(int bucket, StreamView compute) {
  const auto index = static_cast<size_t>(bucket);
  if (used_[index]) return;
  used_[index] = true;
  if (direction_ == Direction::kForward && piece_buckets_ == piece_limit_) {
    EndPiece(compute);
    if (recording_->pieces.size() > 1) piece_limit_ *= 2;
    piece_buckets_ = 0;
    BeginPiece(compute);
  }
  ++piece_buckets_;
}

void RecordedPasses::Use(ParameterId id, StreamView compute) {
  if (recording_ != nullptr) {
    CountUse(BucketOf(id), compute);
    recording_->pieces.back().calls.push_back({Told::kUse, id});
  }
  hooks_.Use(id, compute);
}

bool RecordedPasses::Contribute(ParameterId id, StreamView compute) {
  const bool adds = hooks_.Contribute(id, compute);
  if (recording_ != nullptr) {
    recording_->pieces.back().calls.push_back({Told::kContribute, id, adds});
  }
  return adds;
}

void RecordedPasses::Ready(ParameterId id, StreamView compute) {
  if (recording_ == nullptr) return hooks_.Ready(id, compute);
  recording_->pieces.back().calls.push_back({Told::kReady, id});
  const bool completes = --missing_[static_cast<size_t>(BucketOf(id))] == 0;
  if (!completes) return hooks_.Ready(id, compute);
  EndPiece(compute);
  hooks_.Ready(id, compute);
  BeginPiece(compute);
}

absl::Status RecordedPasses::Forward(int stage, int microbatch, TensorView in, TensorView out,
                                     StreamView compute) {
  return Run(Direction::kForward, microbatch, compute,
             [&] { return inner_.Forward(stage, microbatch, in, out, compute); });
}

absl::Status RecordedPasses::Backward(int stage, int microbatch, TensorView d_out, TensorView d_in,
                                      StreamView compute) {
  return Run(Direction::kBackward, microbatch, compute,
             [&] { return inner_.Backward(stage, microbatch, d_out, d_in, compute); });
}

absl::Status RecordedPasses::BackwardInput(int stage, int microbatch, TensorView d_out,
                                           TensorView d_in, StreamView compute) {
  return inner_.BackwardInput(stage, microbatch, d_out, d_in, compute);
}

absl::Status RecordedPasses::BackwardWeight(int stage, int microbatch, StreamView compute) {
  return inner_.BackwardWeight(stage, microbatch, compute);
}

absl::Status RecordedPasses::Evaluate(int stage, int microbatch, TensorView in, TensorView out,
                                      StreamView compute) {
  return inner_.Evaluate(stage, microbatch, in, out, compute);
}

}  // namespace muster::runtime
