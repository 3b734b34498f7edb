#pragma once
// The pipeline that a job asks for: its schedule, proved to run, and the layers of each stage.
#include <string>
#include <vector>

#include "parallel/pp/schedule.h"
#include "parallel/pp/schedule_check.h"
#include "runtime/job/job.pb.h"

namespace muster::runtime {

struct PipelinePlan {
  parallel::Schedule schedule;
  parallel::ScheduleFacts facts;  // with all actions of one length
  std::vector<int> layers;        // by stage
};

// `ranks` is the resolved mesh.pp. Every broken rule of schedule.* and of layers against stages
// becomes a sentence in `problems` that starts with its field.
PipelinePlan PlanPipeline(const Job& job, int ranks, std::vector<std::string>* problems);

}  // namespace muster::runtime
