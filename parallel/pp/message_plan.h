#pragma once
// What the lists of a schedule send to each other. A stage hands the residual stream to the next
// stage and a gradient to the one before. All that goes one way (activations or gradients) from one
// rank to another is a channel: its messages travel in the order of the sender's list, which both
// ends know, so nothing but data is sent. A channel from a rank to itself, which V-shaped schedules
// have, is a hand-over in memory.
#include <string>
#include <vector>

#include "parallel/pp/schedule.h"

namespace muster::parallel {

enum class Flow { kActivations, kGradients };

struct Message {
  int stage;  // that reads it
  int microbatch;
  friend bool operator==(const Message&, const Message&) = default;
};

struct ChannelPlan {
  Flow flow;
  int source, destination;        // pipeline ranks
  std::vector<Message> messages;  // in the order of the source's list
  bool local() const { return source == destination; }
  std::string Name() const;  // "activations 0>1"
};

// Sorted by source, destination and flow: the same list on every rank.
std::vector<ChannelPlan> PlanChannels(const Schedule& schedule);
// The messages of another schedule over the same stages, on the channels `planned` for the first.
// CHECKs that it needs no others.
std::vector<ChannelPlan> PlanChannels(const Schedule& schedule,
                                      const std::vector<ChannelPlan>& planned);

// A message of a channel; channel -1: none.
struct MessageRef {
  int channel = -1;
  int index = 0;
  explicit operator bool() const { return channel >= 0; }
};

// One rank's list with what each action reads and writes.
struct ProgramStep {
  Action action;
  MessageRef input, output;
  bool last_contribution = false;  // the last that adds to the gradients of its stage
};
using Program = std::vector<ProgramStep>;
// CHECKs that the rank's reads meet writes (CheckSchedule has refused what does not).
Program MakeProgram(const Schedule& schedule, const std::vector<ChannelPlan>& channels, int rank);

}  // namespace muster::parallel
