#include "kernels/ops/digest.h"

#include "kernels/base/word_digest.h"

namespace muster::kernels::cpu {

void Digest(const DigestArgs& args) {
  CheckArgs(args);
  const char* x = static_cast<const char*>(args.x.data);
  const int64_t size = SizeOf(args.x.dtype);
  auto* out = static_cast<uint64_t*>(args.out.data);
  for (int64_t r = 0; r < args.table.num_ranges; ++r) {
    const DigestRange& range = args.table.ranges<DigestRange>()[r];
    out[r] += WordDigest(x + range.begin * size, range.count * size);
  }
}

}  // namespace muster::kernels::cpu
