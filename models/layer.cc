#include "models/layer.h"

namespace muster::models {

void AllRows::AddTo(ArenaPlan& plan, const std::string& name, const StageContext& stage) {
  if (!stage.tensor().sequence_parallel()) return;
  const kernels::Shape shape = {stage.shape.tokens(), stage.config.hidden()};
  plan.Add(&x_TD, name + ".all_x", stage.shape.dtype, shape, Lifetime::kScratch);
  plan.Add(&y_TD, name + ".all_y", stage.shape.dtype, shape, Lifetime::kScratch);
}

absl::StatusOr<TensorView> AllRows::OutputGradient(const StageContext& stage, TensorView d_y_TD,
                                                   StreamView compute) const {
  const parallel::TensorParallel tensor = stage.tensor();
  if (tensor.sequence_parallel() && !stage.shape.split_backward) return y_TD;
  return tensor.Gather(d_y_TD, y_TD, compute);
}

}  // namespace muster::models
