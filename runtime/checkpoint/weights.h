#pragma once
// The weights of a model as safetensors files with an index (Hugging Face's sharded layout:
// model-00001-of-0000N.safetensors and model.safetensors.index.json). Every tensor has its global
// name; experts are stored one by one ("...experts.5.gate_up"), so any expert layout reads them.
// Each parameter is written by one of its replicas; buffers (balance bias) by rank 0.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/mesh/parameter.h"

namespace muster::runtime {

struct NamedBuffer {
  std::string global_name;
  kernels::TensorView tensor;  // replicated on all ranks
};

// Where weights go.
struct WeightsPlace {
  std::string directory;
  int attempt = 0;  // names what is written until it is whole: <directory>.attempt-<a>.partial
  // On rank 0, before anything is written and before it becomes visible: an error means that this
  // process may not write here any more.
  std::function<absl::Status()> fence;
};

// Collective over the world; all replicas hold current weights, or `hooks` brings each when it is
// used (ZeRO 3). The directory appears whole, by a rename, and replaces an older one in one step.
// What an attempt that died here has left is not cleared (RemoveLeftoversOf). Errors (equal on all
// ranks): the fence's, if it is Aborted; else it cannot be written: a NotSavedError.
absl::Status SaveWeights(const WeightsPlace& place, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, parallel::World& world,
                         kernels::StreamView compute, parallel::ParameterHooks* hooks = nullptr);

// Reads this rank's slice of every parameter, all of which are in memory, and buffer. Errors name
// the file and tensor: missing, of another shape or dtype, or in the files but not in the model.
absl::Status LoadWeights(const std::string& directory, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, kernels::StreamView compute);

}  // namespace muster::runtime
