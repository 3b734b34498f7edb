// What the sources of the parsers refer to, but no parser calls: measuring a peak, filling weights.
// Linking it would take the operators too, which are slow to compile with instrumentation.
#include "kernels/base/error.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/matmul.h"

namespace muster::kernels {

void Matmul(const MatmulArgs&, StreamView) { MUSTER_CHECK(false) << "not for parsers"; }

namespace cpu {
void FillNormal(const FillNormalArgs&) { MUSTER_CHECK(false) << "not for parsers"; }
}  // namespace cpu

}  // namespace muster::kernels
