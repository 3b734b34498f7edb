#pragma once
// How fast a directory's disk takes and gives bytes, and how fast checkpoints come and go there:
// the second against the first shows what hashing, formats and the page cache cost.
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace muster::runtime {

// Bytes per second, by one process; all writes are durable when the clock stops.
struct StorageSpeed {
  int64_t bytes = 0;
  bool direct = false;                   // the disk's own was measured past the page cache
  double disk_write = 0, disk_read = 0;  // large sequential calls
  double save = 0;                       // hash, shard, manifest, commit: from host memory
  double load = 0;  // open, verify every hash, copy: to host memory, from a cold cache if `direct`
};

// Writes twice `bytes` (at least 1 MiB) below `directory`, reads them, and removes them. Errors: it
// cannot be written, or holds less.
absl::StatusOr<StorageSpeed> MeasureStorageSpeed(const std::string& directory, int64_t bytes);

}  // namespace muster::runtime
