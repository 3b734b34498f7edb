#pragma once
// A run of one rank whose state is a few small tensors with values that follow from the step: what
// a checkpoint holds can be told by looking at it.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "runtime/checkpoint/checkpointer.h"
#include "runtime/checkpoint/restore.h"

namespace muster::runtime {

class ToyRun {
 public:
  explicit ToyRun(std::string directory, CheckpointOptions options = {},
                  kernels::StreamMode mode = kernels::StreamMode::kInline)
      : directory_(std::move(directory)),
        world_(parallel::World::Alone()),
        stream_(Take(kernels::Stream::Create({}, mode, "compute"))),
        a_(Take(kernels::Tensor::Allocate(kernels::DType::kFloat32, {5, 7}))),
        b_(Take(kernels::Tensor::Allocate(kernels::DType::kFloat32, {64}))),
        c_(Take(kernels::Tensor::Allocate(kernels::DType::kInt64, {3}))) {
    checkpointer = Take(Checkpointer::Create(directory_,
                                             {{"weight/a", LogicalRange::Whole({5, 7}), a_.view()},
                                              {"weight/b", LogicalRange::Whole({64}), b_.view()},
                                              {"buffer/c", LogicalRange::Whole({3}), c_.view()}},
                                             *world_, stream_.view(), std::move(options)));
  }

  // The state after `step`.
  void Become(int64_t step) {
    stream_.view().Enqueue([this, step] {
      for (int i = 0; i < 35; ++i) a_.view().as<float>()[i] = static_cast<float>(step * 100 + i);
      for (int i = 0; i < 64; ++i) b_.view().as<float>()[i] = static_cast<float>(step * -3 - i);
      for (int i = 0; i < 3; ++i) c_.view().as<int64_t>()[i] = step * 7 + i;
    });
  }
  static CheckpointFacts FactsOf(int64_t step) {
    return {.step = step, .samples = step * 32, .seed = 11, .config_hash = 99, .mesh = "dp1"};
  }
  void Save(int64_t step) {
    Become(step);
    MUSTER_CHECK_OK(checkpointer->Save(FactsOf(step)));
  }
  absl::StatusOr<std::optional<RestoredState>> Load(parallel::World* world = nullptr) {
    Become(-1);
    return Restore(SourceOf(directory_),
                   {{"weight/a", LogicalRange::Whole({5, 7}), kernels::DType::kFloat32, a_.view()},
                    {"weight/b", LogicalRange::Whole({64}), kernels::DType::kFloat32, b_.view()},
                    {"buffer/c", LogicalRange::Whole({3}), kernels::DType::kInt64, c_.view()}},
                   world == nullptr ? *world_ : *world, stream_.view());
  }
  // Whether every element is that of `step`.
  bool Is(int64_t step) {
    MUSTER_CHECK_OK(stream_.view().Synchronize());
    bool is = true;
    for (int i = 0; i < 35; ++i) is &= a_.view().as<float>()[i] == step * 100 + i;
    for (int i = 0; i < 64; ++i) is &= b_.view().as<float>()[i] == step * -3 - i;
    for (int i = 0; i < 3; ++i) is &= c_.view().as<int64_t>()[i] == step * 7 + i;
    return is;
  }
  std::string checkpoints() const { return directory_ + "/checkpoints"; }
  std::string Path(int64_t step) const { return checkpoints() + "/" + CheckpointName(step); }
  std::string ShardPath(int64_t step) const {
    return Path(step) + "/shard-00000-of-00001.safetensors";
  }

 private:
  template <typename T>
  static T Take(absl::StatusOr<T> value) {
    MUSTER_CHECK(value.ok()) << value.status();
    return *std::move(value);
  }
  const std::string directory_;
  std::unique_ptr<parallel::World> world_;
  kernels::Stream stream_;
  kernels::Tensor a_, b_, c_;

 public:
  std::unique_ptr<Checkpointer> checkpointer;
};

}  // namespace muster::runtime
