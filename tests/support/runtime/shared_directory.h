#pragma once
// A directory of rank 0's in fast memory that all ranks of a world use; it goes when the last one
// has left. All ranks make it and leave it together.
#include <memory>
#include <string>

#include "kernels/base/error.h"
#include "parallel/comm/rendezvous.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {

class SharedDirectory {
 public:
  explicit SharedDirectory(parallel::World& world) : world_(world) {
    if (world.rank() == 0) mine_ = std::make_unique<ScratchDirectory>(FastParent());
    path_ = world.GatherText(mine_ ? mine_->path() : "")->front();
  }
  ~SharedDirectory() { MUSTER_CHECK_OK(world_.GatherText("").status()); }
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  parallel::World& world_;
  std::unique_ptr<ScratchDirectory> mine_;
  std::string path_;
};

}  // namespace muster::runtime
