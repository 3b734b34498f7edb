#pragma once
// The one ledger of parameters, FLOPs and bytes: MFU, goodput, planner and benchmarks read it.
// Counts matrix products only (2 M N K); attention's two products are counted in both conventions:
// causal (a query meets half of the keys on average: (S + 1) / 2) and full (all S). Training costs
// three times the forward. Experts count as used: top_k and shared ones.
//
// What a device computes beyond that, because the backward runs parts of the forward again, is
// counted apart (recomputed), for hardware FLOPs. Not in either: what a kernel repeats within
// itself, as the backward of attention does with its scores.
#include <cstdint>
#include <vector>

#include "models/model.pb.h"
#include "models/stage_shape.h"

namespace muster::models {

struct ModelCost {
  int64_t parameters = 0;            // all
  int64_t active_parameters = 0;     // all but the routed experts that a token does not choose
  int64_t embedding_parameters = 0;  // token and position tables (not the output projection)
  int64_t expert_parameters = 0;     // routed experts only
  // Training FLOPs (forward and backward) per token, at the given sequence length.
  double matmul_flops_per_token = 0;  // all but attention's products
  double attention_flops_per_token_causal = 0;
  double attention_flops_per_token_full = 0;
  double flops_per_token() const {  // the convention of MFU and goodput here
    return matmul_flops_per_token + attention_flops_per_token_causal;
  }
  double flops_per_token_full() const {
    return matmul_flops_per_token + attention_flops_per_token_full;
  }
  double recomputed_flops_per_token = 0;  // causal
  double hardware_flops_per_token() const { return flops_per_token() + recomputed_flops_per_token; }
};

ModelCost CostOf(const ModelConfig& config, int64_t sequence_length,
                 const Recompute& recompute = {});

// The training FLOPs of its parts: those of flops_per_token(), layer by layer.
struct PartCosts {
  std::vector<double> layers;
  double output = 0;  // the projection to the vocabulary
};
PartCosts CostsOfParts(const ModelConfig& config, int64_t sequence_length);

}  // namespace muster::models
