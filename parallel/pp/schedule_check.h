#pragma once
// Proves before anything starts that a schedule can run: every microbatch passes every stage once
// in a possible order, every message meets its reader, and no order deadlocks. It plays the lists
// with the runner's own rules (parallel/pp/runner.h): a rank performs its actions in order; a
// channel carries its messages in the sender's order, the next one once the reader has a free
// buffer; an action waits for what it reads and for a free buffer for what it writes. Who waits for
// whom then depends on no timing, so lists that end here end on every machine.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/pp/message_plan.h"
#include "parallel/pp/schedule.h"

namespace muster::parallel {

// Of one microbatch in one stage, in any unit. A whole backward takes input + weight.
struct ActionTimes {
  double forward = 1, backward_input = 1, backward_weight = 1;
  double transfer = 0;  // of a message between ranks
  // Above 0: a forward followed by a whole backward is one action of this length, which needs what
  // both read and gives what both write at its end. That is how DualPipe is reckoned; the runner
  // does one after the other.
  double forward_and_backward = 0;
};

// What a schedule does on each rank, by pipeline rank.
struct ScheduleFacts {
  std::vector<ChannelPlan> channels;
  std::vector<int> buffers;  // by channel, at the reader, and as many at the writer
  std::vector<int> stage_ranks, stage_slots, stage_gradient_slots;  // by stage
  std::vector<int> peak_microbatches;  // alive at once, each stage counted
  double makespan = 0;
  std::vector<double> busy;                 // time in actions
  std::vector<std::vector<double>> starts;  // of each action
  double Bubble(int rank) const { return makespan - busy[static_cast<size_t>(rank)]; }
  double MostBubble() const;
};

// Errors: InvalidArgument, with every broken rule of the lists, or with who waits for whom.
absl::StatusOr<ScheduleFacts> CheckSchedule(const Schedule& schedule,
                                            const ActionTimes& times = {});
// Whether another list over the same stages (an evaluation) ends with the channels and buffers of
// `planned`. Errors: who waits for whom.
absl::Status CheckBuffers(const Schedule& schedule, const ScheduleFacts& planned);

// The schedule as text, a line a rank, a column a unit of time: "F0 F1 .. B0". For documents and
// `muster check`. `facts` must come from times that are whole numbers.
std::string DrawSchedule(const Schedule& schedule, const ScheduleFacts& facts,
                         const ActionTimes& times);

}  // namespace muster::parallel
