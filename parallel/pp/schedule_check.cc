#include "parallel/pp/schedule_check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

// A message is on its way to be computed under while another is read.
constexpr int kLeastBuffers = 2;
constexpr size_t kMostProblems = 20;  // that are listed

double Duration(const Action& action, const ActionTimes& times) {
  switch (action.kind) {
    case Kind::kForward:
    case Kind::kEvaluate:
      return times.forward;
    case Kind::kBackward:
      return times.backward_input + times.backward_weight;
    case Kind::kBackwardInput:
      return times.backward_input;
    case Kind::kBackwardWeight:
      return times.backward_weight;
  }
  return 0;
}

std::string At(int rank, size_t index, const Action& action) {
  return absl::StrCat(ToString(action), " (rank ", rank, ", action ", index + 1, ")");
}

// What must hold of one (stage, microbatch), whatever the rest of the lists says.
class ListRules {
 public:
  explicit ListRules(const Schedule& schedule) : schedule_(schedule) {}
  std::vector<std::string> Broken() {
    for (size_t rank = 0; rank < schedule_.size(); ++rank) {
      for (size_t i = 0; i < schedule_[rank].size(); ++i) Add(static_cast<int>(rank), i);
    }
    const int stages = NumStages(schedule_), microbatches = NumMicrobatches(schedule_);
    if (stages == 0 || microbatches == 0) problems_.push_back("the schedule has no actions");
    // Numbers in a file may leave more places empty than there are actions by far.
    for (int stage = 0; stage < stages; ++stage) {
      for (int microbatch = 0; microbatch < microbatches; ++microbatch) {
        if (problems_.size() > kMostProblems) return problems_;
        Check(stage, microbatch);
      }
    }
    return problems_;
  }

 private:
  void Add(int rank, size_t index) {
    const Action& action = schedule_[static_cast<size_t>(rank)][index];
    if (action.stage < 0 || action.microbatch < 0) {
      problems_.push_back(At(rank, index, action) + ": stages and microbatches count from 0");
      return;
    }
    const auto [home, first] = rank_of_.emplace(action.stage, rank);
    if (home->second != rank) {
      problems_.push_back(absl::StrCat(At(rank, index, action), ": stage ", action.stage,
                                       " is on rank ", home->second,
                                       " already; a stage lives on one rank"));
    }
    const auto key = std::tuple(action.kind, action.stage, action.microbatch);
    if (!places_.emplace(key, index).second) {
      problems_.push_back(At(rank, index, action) + ": it stands there twice");
    }
  }
  std::optional<size_t> Place(Kind kind, int stage, int microbatch) const {
    const auto found = places_.find({kind, stage, microbatch});
    return found == places_.end() ? std::nullopt : std::optional(found->second);
  }
  void Check(int stage, int microbatch) {
    const auto place = [&](Kind kind) { return Place(kind, stage, microbatch); };
    const auto forward = place(Kind::kForward), whole = place(Kind::kBackward);
    const auto input = place(Kind::kBackwardInput), weight = place(Kind::kBackwardWeight);
    const std::string of = absl::StrCat(stage, ".", microbatch);
    if (place(Kind::kEvaluate)) {
      if (forward || whole || input || weight) {
        problems_.push_back("E" + of + " stands beside actions of a training step");
      }
      return;
    }
    if (!forward) problems_.push_back("F" + of + " is missing");
    if (whole && (input || weight)) {
      problems_.push_back("B" + of + " stands beside I" + of + " or W" + of + ": keep one form");
    } else if (!whole && !(input && weight)) {
      problems_.push_back(absl::StrCat("the backward of stage ", stage, ", microbatch ", microbatch,
                                       " is missing: wanted B", of, ", or I", of, " and W", of));
    }
    if ((forward && whole && *whole < *forward) || (forward && input && *input < *forward)) {
      problems_.push_back("the backward of F" + of + " stands before it");
    }
    if (input && weight && *weight < *input) {
      problems_.push_back("W" + of + " stands before I" + of + ", whose work it needs");
    }
  }

  const Schedule& schedule_;
  std::map<int, int> rank_of_;  // by stage
  std::map<std::tuple<Kind, int, int>, size_t> places_;
  std::vector<std::string> problems_;
};

// The lists under way.
class Simulation {
 public:
  Simulation(const std::vector<ChannelPlan>& channels, const std::vector<Program>& programs,
             const std::vector<int>& buffers, const ActionTimes& times)
      : channels_(channels),
        programs_(programs),
        buffers_(buffers),
        times_(times),
        clock_(programs.size()),
        busy_(programs.size()),
        starts_(programs.size()) {
    for (const ChannelPlan& channel : channels) {
      const std::vector<double> never(channel.messages.size(), kNever);
      wires_.push_back({never, never, never});
    }
  }

  // Ok, or Aborted with who waits for whom.
  absl::Status Run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t rank = 0; rank < programs_.size(); ++rank) {
        while (starts_[rank].size() < programs_[rank].size() && Act(rank)) moved = true;
      }
      for (size_t c = 0; c < channels_.size(); ++c) moved = Carry(c) || moved;
    }
    std::vector<std::string> waiting;
    for (size_t rank = 0; rank < programs_.size(); ++rank) {
      if (starts_[rank].size() < programs_[rank].size()) waiting.push_back(WhyNot(rank));
    }
    if (waiting.empty()) return absl::OkStatus();
    return absl::AbortedError("the lists deadlock: " + absl::StrJoin(waiting, "; "));
  }
  double makespan() const { return *std::max_element(clock_.begin(), clock_.end()); }
  const std::vector<double>& busy() const { return busy_; }
  const std::vector<std::vector<double>>& starts() const { return starts_; }

 private:
  static constexpr double kNever = -1;
  struct Wire {
    std::vector<double> written, arrived, read;  // by message
    size_t next = 0;                             // to be carried
    double posted = 0;                           // when the reader had room for the last one
  };

  double Arrived(MessageRef message) const {
    return Of(message).arrived[static_cast<size_t>(message.index)];
  }
  // When the buffer that a message is written to is free: its last message has left.
  double Free(MessageRef message) const {
    const int before = message.index - buffers_[static_cast<size_t>(message.channel)];
    if (before < 0) return 0;
    const Wire& wire = Of(message);
    const bool local = channels_[static_cast<size_t>(message.channel)].local();
    return (local ? wire.read : wire.arrived)[static_cast<size_t>(before)];
  }
  const Wire& Of(MessageRef message) const { return wires_[static_cast<size_t>(message.channel)]; }
  Wire& Of(MessageRef message) { return wires_[static_cast<size_t>(message.channel)]; }

  // Actions from `first` on that start and end together.
  size_t Together(size_t rank, size_t first) const {
    const Program& program = programs_[rank];
    const bool pair = times_.forward_and_backward > 0 && first + 1 < program.size() &&
                      program[first].action.kind == Kind::kForward &&
                      program[first + 1].action.kind == Kind::kBackward;
    return pair ? 2 : 1;
  }

  bool Act(size_t rank) {
    const size_t first = starts_[rank].size(), count = Together(rank, first);
    double start = clock_[rank];
    for (size_t i = first; i < first + count; ++i) {
      const ProgramStep& step = programs_[rank][i];
      for (const double needed :
           {step.input ? Arrived(step.input) : 0.0, step.output ? Free(step.output) : 0.0}) {
        if (needed == kNever) return false;
        start = std::max(start, needed);
      }
    }
    const double duration =
        count == 2 ? times_.forward_and_backward : Duration(programs_[rank][first].action, times_);
    busy_[rank] += duration;
    clock_[rank] = start + duration;
    for (size_t i = first; i < first + count; ++i) {
      starts_[rank].push_back(start);
      Ended(programs_[rank][i], clock_[rank]);
    }
    return true;
  }

  void Ended(const ProgramStep& step, double end) {
    if (step.input) Of(step.input).read[static_cast<size_t>(step.input.index)] = end;
    if (!step.output) return;
    Of(step.output).written[static_cast<size_t>(step.output.index)] = end;
    Carry(static_cast<size_t>(step.output.channel));
  }

  // Moves a channel's messages as far as they get.
  bool Carry(size_t c) {
    Wire& wire = wires_[c];
    const size_t before = wire.next, room = static_cast<size_t>(buffers_[c]);
    const bool local = channels_[c].local();
    for (; wire.next < wire.written.size(); ++wire.next) {
      const size_t k = wire.next;
      if (wire.written[k] == kNever) break;
      if (local) {
        wire.arrived[k] = wire.written[k];
        continue;
      }
      if (k >= room && wire.read[k - room] == kNever) break;
      if (k >= room) wire.posted = std::max(wire.posted, wire.read[k - room]);
      const double free = k > 0 ? wire.arrived[k - 1] : 0;
      wire.arrived[k] = std::max({wire.written[k], wire.posted, free}) + times_.transfer;
    }
    return wire.next != before;
  }

  std::string WhyNot(size_t rank) const {
    const size_t index = starts_[rank].size();
    const ProgramStep& step = programs_[rank][index];
    std::string text = At(static_cast<int>(rank), index, step.action) + " waits for ";
    if (step.input && Arrived(step.input) == kNever) {
      const ChannelPlan& channel = channels_[static_cast<size_t>(step.input.channel)];
      return absl::StrCat(text, channel.Name(), " of microbatch ", step.action.microbatch);
    }
    const ChannelPlan& channel = channels_[static_cast<size_t>(step.output.channel)];
    return absl::StrCat(text, "a free buffer of ", channel.Name());
  }

  const std::vector<ChannelPlan>& channels_;
  const std::vector<Program>& programs_;
  const std::vector<int>& buffers_;
  const ActionTimes& times_;
  std::vector<Wire> wires_;
  std::vector<double> clock_, busy_;
  std::vector<std::vector<double>> starts_;
};

// The fewest buffers that slow no rank down, in a few timings.
class BufferPlanner {
 public:
  BufferPlanner(const std::vector<ChannelPlan>& channels, const std::vector<Program>& programs)
      : channels_(channels), programs_(programs) {}

  absl::StatusOr<std::vector<int>> Plan() {
    std::vector<int> all, buffers;
    for (const ChannelPlan& channel : channels_) {
      all.push_back(static_cast<int>(channel.messages.size()));
      buffers.push_back(std::min(kLeastBuffers, all.back()));
    }
    for (const ActionTimes& times : kTimings) {
      Simulation unhindered(channels_, programs_, all, times);
      RETURN_IF_ERROR(unhindered.Run());
      makespans_.push_back(unhindered.makespan());
    }
    if (Suffice(buffers)) return buffers;
    while (!Suffice(buffers)) {
      for (size_t c = 0; c < all.size(); ++c) buffers[c] = std::min(buffers[c] + 1, all[c]);
    }
    for (int& number : buffers) {  // which of the channels wanted them
      while (number > kLeastBuffers) {
        --number;
        if (Suffice(buffers)) continue;
        ++number;
        break;
      }
    }
    return buffers;
  }

 private:
  static constexpr ActionTimes kTimings[] = {{}, {1, 2, 1}, {2, 1, 1}};
  bool Suffice(const std::vector<int>& buffers) const {
    for (size_t i = 0; i < makespans_.size(); ++i) {
      Simulation bounded(channels_, programs_, buffers, kTimings[i]);
      if (!bounded.Run().ok() || bounded.makespan() > makespans_[i]) return false;
    }
    return true;
  }
  const std::vector<ChannelPlan>& channels_;
  const std::vector<Program>& programs_;
  std::vector<double> makespans_;  // without bounds, by timing
};

}  // namespace

double ScheduleFacts::MostBubble() const {
  return makespan - *std::min_element(busy.begin(), busy.end());
}

absl::StatusOr<ScheduleFacts> CheckSchedule(const Schedule& schedule, const ActionTimes& times) {
  const std::vector<std::string> broken = ListRules(schedule).Broken();
  if (!broken.empty()) {
    std::vector<std::string> shown(
        broken.begin(),
        broken.begin() + static_cast<std::ptrdiff_t>(std::min(broken.size(), kMostProblems)));
    if (broken.size() > kMostProblems) shown.push_back("more like these");
    return absl::InvalidArgumentError(absl::StrJoin(shown, "; "));
  }
  ScheduleFacts facts;
  facts.channels = PlanChannels(schedule);
  std::vector<Program> programs;
  for (int rank = 0; rank < static_cast<int>(schedule.size()); ++rank) {
    programs.push_back(MakeProgram(schedule, facts.channels, rank));
  }
  absl::StatusOr<std::vector<int>> buffers = BufferPlanner(facts.channels, programs).Plan();
  if (!buffers.ok()) return absl::InvalidArgumentError(buffers.status().message());
  facts.buffers = *std::move(buffers);
  Simulation simulation(facts.channels, programs, facts.buffers, times);
  RETURN_IF_ERROR(simulation.Run());
  facts.stage_ranks = StageRanks(schedule);
  facts.stage_slots = StageSlots(schedule);
  facts.stage_gradient_slots = StageGradientSlots(schedule);
  facts.peak_microbatches = PeakMicrobatches(schedule);
  facts.makespan = simulation.makespan();
  facts.busy = simulation.busy();
  facts.starts = simulation.starts();
  return facts;
}

absl::Status CheckBuffers(const Schedule& schedule, const ScheduleFacts& planned) {
  const std::vector<ChannelPlan> channels = PlanChannels(schedule, planned.channels);
  std::vector<Program> programs;
  for (int rank = 0; rank < static_cast<int>(schedule.size()); ++rank) {
    programs.push_back(MakeProgram(schedule, channels, rank));
  }
  const ActionTimes times;
  return Simulation(channels, programs, planned.buffers, times).Run();
}

std::string DrawSchedule(const Schedule& schedule, const ScheduleFacts& facts,
                         const ActionTimes& times) {
  const auto columns = static_cast<size_t>(std::llround(facts.makespan));
  // Stages are told apart where a rank holds several: F0.3, else F3.
  const bool several = NumStages(schedule) > static_cast<int>(schedule.size());
  const auto label = [&](const Action& action) {
    const std::string text = ToString(action);
    return several ? text : absl::StrCat(text.substr(0, 1), action.microbatch);
  };
  size_t width = 2;
  for (const auto& actions : schedule) {
    for (const Action& action : actions) width = std::max(width, label(action).size());
  }
  std::string text;
  for (size_t rank = 0; rank < schedule.size(); ++rank) {
    std::vector<std::string> cells(columns, ".");
    for (size_t i = 0; i < schedule[rank].size(); ++i) {
      const auto begin = static_cast<size_t>(std::llround(facts.starts[rank][i]));
      const auto length = std::llround(Duration(schedule[rank][i], times));
      for (long long t = 0; t < length; ++t) {
        cells[begin + static_cast<size_t>(t)] = t == 0 ? label(schedule[rank][i]) : "-";
      }
    }
    absl::StrAppend(&text, "rank ", rank, " |");
    for (std::string& cell : cells) {
      cell.resize(width, ' ');
      absl::StrAppend(&text, " ", cell);
    }
    while (text.back() == ' ') text.pop_back();
    text += '\n';
  }
  return text;
}

}  // namespace muster::parallel
