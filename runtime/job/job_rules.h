#pragma once
// What a job must keep to be legal, beyond its syntax. Each broken rule becomes a problem that
// names the field, its value and the nearest that would work.
#include <string>
#include <vector>

#include "kernels/ops/attention.h"
#include "parallel/mesh/mesh.h"
#include "runtime/job/config.h"
#include "runtime/job/field_path.h"

namespace muster::runtime {

enum class FileRules { kCheck, kSkip };  // whether data and tokenizer files must exist

// The degrees that the config asks for; dp is 0 where it is left open.
parallel::MeshDegrees DegreesOf(const Job& job);

// What the config asks to run attention in bf16 on GPUs.
kernels::AttentionKernel AttentionKernelOf(const Precision& precision);

// The smallest world on which these degrees fit: an open dp becomes as small as ep x etp allows.
int SmallestWorld(const parallel::MeshDegrees& degrees);

// Appends every broken rule of a job whose defaults are filled in; rules about fields that already
// have a problem are left out. Returns the resolved mesh, which is meaningful if no rule of the
// mesh is broken.
parallel::MeshDegrees CheckJob(const Job& job, int world_size, FileRules files,
                               const FieldOrigins& origins, std::vector<ConfigProblem>* problems);

// Likewise, of a job of which only `device` and `communication` will be read.
void CheckCommunication(const Job& job, const FieldOrigins& origins,
                        std::vector<ConfigProblem>* problems);

}  // namespace muster::runtime
