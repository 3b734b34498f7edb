#include "kernels/ops/capacity.h"

#include <vector>

#include "kernels/base/error.h"

namespace muster::kernels::cpu {

void AdmitByCapacity(const AdmitByCapacityArgs& args) {
  CheckArgs(args);
  const int64_t ranks = args.all.shape[0], rank_rows = args.all.shape[1], top_k = args.all.shape[2];
  const int64_t S = args.sequence_tokens, run = S / ranks, chunk = ranks == 1 ? S : run / 2;
  const int64_t num_rows = args.out.shape[0];
  const int32_t* all = args.all.as<int32_t>();
  int32_t* out = args.out.as<int32_t>();
  std::vector<int64_t> taken(static_cast<size_t>(args.num_experts));
  for (int64_t first = 0; first < rank_rows; first += run) {  // of a sequence, on every rank
    taken.assign(taken.size(), 0);
    for (int64_t position = 0; position < S; ++position) {
      const int64_t c = position / chunk;
      const bool front = c < ranks;
      const int64_t rank = front ? c : 2 * ranks - 1 - c;
      const int64_t row = first + (front ? 0 : chunk) + position % chunk;
      const int64_t own = row - args.first_row;
      const bool mine = rank == args.rank && own >= 0 && own < num_rows;
      for (int64_t j = 0; j < top_k; ++j) {
        const int32_t expert = all[(rank * rank_rows + row) * top_k + j];
        MUSTER_CHECK(expert >= 0 && expert < args.num_experts)
            << "AdmitByCapacity: expert " << expert << " of " << args.num_experts;
        const bool admitted = taken[static_cast<size_t>(expert)]++ < args.capacity;
        if (mine) out[own * top_k + j] = admitted ? expert : -1;
      }
    }
  }
}

}  // namespace muster::kernels::cpu
