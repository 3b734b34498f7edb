#include "parallel/comm/row_counts.h"

#include <string>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

absl::Status CheckFits(const char* what, const int64_t* counts, int size, int64_t rows) {
  int64_t sum = 0;
  for (int peer = 0; peer < size; ++peer) {
    if (counts[peer] < 0 || counts[peer] > rows - sum) {
      return absl::InvalidArgumentError(std::string(what) + "[" + std::to_string(peer) +
                                        "] = " + std::to_string(counts[peer]) + " after " +
                                        std::to_string(sum) + " rows does not fit a tensor of " +
                                        std::to_string(rows) + " rows");
    }
    sum += counts[peer];
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RowCounts::Check(int64_t send_rows, int64_t receive_rows) const {
  RETURN_IF_ERROR(CheckFits("send_counts", send, size, send_rows));
  RETURN_IF_ERROR(CheckFits("receive_counts", receive, size, receive_rows));
  if (send[rank] == receive[rank]) return absl::OkStatus();
  return absl::InvalidArgumentError("this rank sends itself " + std::to_string(send[rank]) +
                                    " rows but expects " + std::to_string(receive[rank]));
}

}  // namespace muster::parallel
