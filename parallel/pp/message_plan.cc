#include "parallel/pp/message_plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using Key = std::tuple<int, int, Flow>;  // source, destination, flow

// The stage that reads what an action writes; none for weight gradients and the pipeline's ends.
std::optional<std::pair<Flow, int>> Written(const Action& action, int num_stages) {
  if (IsForward(action) && action.stage + 1 < num_stages) {
    return std::pair(Flow::kActivations, action.stage + 1);
  }
  if (IsInputGradient(action) && action.stage > 0) {
    return std::pair(Flow::kGradients, action.stage - 1);
  }
  return std::nullopt;
}

// The stage that writes what an action reads.
std::optional<std::pair<Flow, int>> Read(const Action& action, int num_stages) {
  if (IsForward(action) && action.stage > 0) {
    return std::pair(Flow::kActivations, action.stage - 1);
  }
  if (IsInputGradient(action) && action.stage + 1 < num_stages) {
    return std::pair(Flow::kGradients, action.stage + 1);
  }
  return std::nullopt;
}

// Finds messages of channels. Both ends take them nearly in the channel's order, so that each
// search begins where the last one of that channel ended: a program of n actions costs about n
// steps.
class MessageFinder {
 public:
  explicit MessageFinder(const std::vector<ChannelPlan>& channels)
      : channels_(channels), next_(channels.size()) {}

  MessageRef Find(Flow flow, int source, int destination, Message message) {
    for (size_t c = 0; c < channels_.size(); ++c) {
      const ChannelPlan& channel = channels_[c];
      if (channel.flow != flow || channel.source != source || channel.destination != destination) {
        continue;
      }
      const auto begin = channel.messages.begin(), end = channel.messages.end();
      const auto from = begin + static_cast<std::ptrdiff_t>(next_[c]);
      auto found = std::find(from, end, message);
      if (found == end) found = std::find(begin, from, message);
      if (found == end || *found != message) break;
      next_[c] = static_cast<size_t>(found - begin) + 1;
      return {static_cast<int>(c), static_cast<int>(found - begin)};
    }
    MUSTER_CHECK(false) << "no message for stage " << message.stage << ", microbatch "
                        << message.microbatch << " from rank " << source << " to " << destination;
    return {};
  }

 private:
  const std::vector<ChannelPlan>& channels_;
  std::vector<size_t> next_;  // by channel
};

}  // namespace

std::string ChannelPlan::Name() const {
  return absl::StrCat(flow == Flow::kActivations ? "activations " : "gradients ", source, ">",
                      destination);
}

std::vector<ChannelPlan> PlanChannels(const Schedule& schedule) {
  const std::vector<int> ranks = StageRanks(schedule);
  std::map<Key, ChannelPlan> channels;
  for (int rank = 0; rank < static_cast<int>(schedule.size()); ++rank) {
    for (const Action& action : schedule[static_cast<size_t>(rank)]) {
      const auto written = Written(action, static_cast<int>(ranks.size()));
      if (!written) continue;
      const auto [flow, reader] = *written;
      const int destination = ranks[static_cast<size_t>(reader)];
      ChannelPlan& channel = channels[{rank, destination, flow}];
      channel.flow = flow;
      channel.source = rank;
      channel.destination = destination;
      channel.messages.push_back({reader, action.microbatch});
    }
  }
  std::vector<ChannelPlan> sorted;
  for (auto& [key, channel] : channels) sorted.push_back(std::move(channel));
  return sorted;
}

std::vector<ChannelPlan> PlanChannels(const Schedule& schedule,
                                      const std::vector<ChannelPlan>& planned) {
  std::vector<ChannelPlan> channels;
  for (const ChannelPlan& plan : planned) {
    channels.push_back({plan.flow, plan.source, plan.destination, {}});
  }
  for (ChannelPlan& carried : PlanChannels(schedule)) {
    const auto same = std::find_if(channels.begin(), channels.end(), [&](const ChannelPlan& plan) {
      return plan.Name() == carried.Name();
    });
    MUSTER_CHECK(same != channels.end()) << "no channel for " << carried.Name();
    *same = std::move(carried);
  }
  return channels;
}

Program MakeProgram(const Schedule& schedule, const std::vector<ChannelPlan>& channels, int rank) {
  const std::vector<int> ranks = StageRanks(schedule);
  const int num_stages = static_cast<int>(ranks.size());
  Program program;
  MessageFinder reads(channels), writes(channels);
  std::map<int, size_t> last;  // contribution of each stage
  for (const Action& action : schedule[static_cast<size_t>(rank)]) {
    ProgramStep step{.action = action, .input = {}, .output = {}};
    if (const auto read = Read(action, num_stages)) {
      step.input = reads.Find(read->first, ranks[static_cast<size_t>(read->second)], rank,
                              {action.stage, action.microbatch});
    }
    if (const auto written = Written(action, num_stages)) {
      step.output = writes.Find(written->first, rank, ranks[static_cast<size_t>(written->second)],
                                {written->second, action.microbatch});
    }
    if (IsWeightGradient(action)) last[action.stage] = program.size();
    program.push_back(step);
  }
  for (const auto& [stage, index] : last) program[index].last_contribution = true;
  return program;
}

}  // namespace muster::parallel
