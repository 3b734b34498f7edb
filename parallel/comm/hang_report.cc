#include "parallel/comm/hang_report.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace muster::parallel {
namespace {

using State = CollectiveEntry::State;
using Kind = HangReport::Kind;

// What has numbers of its own: a group's collectives, or its messages from one rank to another.
struct Channel {
  CollectiveGroup group;
  int from = -1, to = -1;
  auto operator<=>(const Channel&) const = default;

  std::vector<int> Members() const {
    return from < 0 ? group.world_ranks : std::vector<int>{from, to};
  }
};
using Calls = std::map<uint64_t, const CollectiveEntry*>;  // by number

bool IsPairwise(const CollectiveEntry& call) {
  return call.kind == CollectiveKind::kSend || call.kind == CollectiveKind::kReceive;
}

uint64_t NumberOf(const CollectiveEntry& call) {
  return IsPairwise(call) ? call.pair_sequence : call.sequence;
}

// Calls that cannot be parts of one collective.
bool CannotMeet(const CollectiveEntry& a, const CollectiveEntry& b) {
  if (IsPairwise(a)) return a.bytes != b.bytes;
  // In an all-to-all or a shift, each rank has its own size.
  const bool own_size = a.kind == CollectiveKind::kAllToAll || a.kind == CollectiveKind::kShift;
  return a.kind != b.kind || (!own_size && a.bytes != b.bytes);
}

bool SamePlace(const CollectiveEntry& a, const CollectiveEntry& b) {
  if (IsPairwise(a)) return a.place.step == b.place.step;
  return a.site == b.site && a.place == b.place;
}

bool Same(const CollectiveEntry& a, const CollectiveEntry& b) {
  return !CannotMeet(a, b) && SamePlace(a, b);
}

// The same call of another step.
bool SameInProgram(const CollectiveEntry& a, const CollectiveEntry& b) {
  return a.group == b.group && a.kind == b.kind && a.peer == b.peer && a.site == b.site &&
         a.place.layer == b.place.layer && a.place.bucket == b.place.bucket;
}

class Explainer {
 public:
  explicit Explainer(const std::vector<CollectiveRecord>& records);
  HangReport Explain();

 private:
  // Ranks that made equal calls under one number.
  using Sides = std::vector<std::vector<int>>;
  struct Difference {
    const Channel* channel;
    uint64_t number;
  };

  const CollectiveEntry* CallAt(const Channel& channel, int rank, uint64_t number) const;
  Channel ChannelOf(int rank, const CollectiveEntry& call) const;
  Sides SidesAt(const Channel& channel, uint64_t number) const;
  std::optional<uint64_t> FirstDifference(const Channel& channel) const;
  std::vector<int> WaitsFor(int rank, const CollectiveEntry& call) const;
  std::optional<bool> BreaksItsOrder(int rank, const CollectiveEntry& call) const;
  bool BreaksOrderOf(const Channel& channel, int rank, uint64_t number) const;
  const CollectiveEntry* Next(const Channel& channel, int rank, const CollectiveEntry& call) const;

  void FindWaits();
  bool ExplainDifference();
  void ExplainWaits();
  bool ExplainByTerminal(const std::set<int>& terminals);
  void ExplainCycle();
  void Blame(const HangReport::Wait& wait, const std::vector<int>& ranks);
  HangReport::Deviation DeviationOf(int rank, const CollectiveEntry* instead) const;

  std::map<int, const CollectiveRecord*> records_;
  std::map<Channel, std::map<int, Calls>> channels_;
  std::map<int, std::map<std::string, CollectiveGroup>> groups_;  // by rank and name
  HangReport report_;
};

Explainer::Explainer(const std::vector<CollectiveRecord>& records) {
  for (const CollectiveRecord& record : records) {
    records_[record.rank] = &record;
    for (const CollectiveGroup& group : record.groups) groups_[record.rank][group.name] = group;
    for (const CollectiveEntry& call : record.calls) {
      channels_[ChannelOf(record.rank, call)][record.rank][NumberOf(call)] = &call;
    }
  }
  for (int rank = 0; !records.empty() && rank < records.front().world_size; ++rank) {
    if (!records_.contains(rank)) report_.silent.push_back(rank);
  }
}

Channel Explainer::ChannelOf(int rank, const CollectiveEntry& call) const {
  Channel channel;
  const auto groups = groups_.find(rank);
  if (groups != groups_.end() && groups->second.contains(call.group)) {
    channel.group = groups->second.at(call.group);
  } else {
    channel.group = {call.group, {rank}};
  }
  if (call.kind == CollectiveKind::kSend) channel.from = rank, channel.to = call.peer;
  if (call.kind == CollectiveKind::kReceive) channel.from = call.peer, channel.to = rank;
  return channel;
}

const CollectiveEntry* Explainer::CallAt(const Channel& channel, int rank, uint64_t number) const {
  const auto ranks = channels_.find(channel);
  if (ranks == channels_.end() || !ranks->second.contains(rank)) return nullptr;
  const Calls& calls = ranks->second.at(rank);
  const auto call = calls.find(number);
  return call == calls.end() ? nullptr : call->second;
}

Explainer::Sides Explainer::SidesAt(const Channel& channel, uint64_t number) const {
  Sides sides;
  for (const int rank : channel.Members()) {
    const CollectiveEntry* call = CallAt(channel, rank, number);
    if (call == nullptr) continue;
    const auto side = std::find_if(sides.begin(), sides.end(), [&](const std::vector<int>& ranks) {
      return Same(*CallAt(channel, ranks.front(), number), *call);
    });
    if (side == sides.end()) {
      sides.push_back({rank});
    } else {
      side->push_back(rank);
    }
  }
  return sides;
}

// The first number from which on all calls differ, or the first of calls that cannot meet.
std::optional<uint64_t> Explainer::FirstDifference(const Channel& channel) const {
  std::set<uint64_t> numbers;
  for (const auto& [rank, calls] : channels_.at(channel)) {
    for (const auto& [number, call] : calls) numbers.insert(number);
  }
  std::optional<uint64_t> first;
  for (const uint64_t number : numbers) {
    const Sides sides = SidesAt(channel, number);
    size_t ranks = 0;
    for (const auto& side : sides) ranks += side.size();
    if (ranks < 2) continue;
    if (sides.size() == 1) {
      // Only the agreement of all says that they are in step again.
      if (ranks == channels_.at(channel).size()) first.reset();
      continue;
    }
    if (!first) first = number;
    const CollectiveEntry& one = *CallAt(channel, sides[0].front(), number);
    for (const auto& side : sides) {
      if (CannotMeet(one, *CallAt(channel, side.front(), number))) return first;
    }
  }
  return first;
}

// Whether the step from the call before to this one is new to a rank that has made this call
// before; nothing if it has not.
std::optional<bool> Explainer::BreaksItsOrder(int rank, const CollectiveEntry& call) const {
  const std::vector<CollectiveEntry>& calls = records_.at(rank)->calls;
  std::optional<bool> breaks;
  const auto self = std::find_if(calls.begin(), calls.end(),
                                 [&](const CollectiveEntry& other) { return other.id == call.id; });
  if (self == calls.begin() || self == calls.end()) return breaks;
  for (auto other = calls.begin() + 1; other != self; ++other) {
    if (!SameInProgram(*other, call)) continue;
    if (SameInProgram(*(other - 1), *(self - 1))) return false;
    breaks = true;
  }
  return breaks;
}

// The same among the calls of one channel. It tells more: other groups' calls may lie between two
// of the channel's, in equal order whether one was left out or not.
bool Explainer::BreaksOrderOf(const Channel& channel, int rank, uint64_t number) const {
  const CollectiveEntry* call = CallAt(channel, rank, number);
  const CollectiveEntry* before = CallAt(channel, rank, number - 1);
  if (call == nullptr || before == nullptr) return false;
  bool breaks = false;
  for (const auto& [earlier, other] : channels_.at(channel).at(rank)) {
    if (earlier >= number) break;
    const CollectiveEntry* its_before = CallAt(channel, rank, earlier - 1);
    if (its_before == nullptr || !SameInProgram(*other, *call)) continue;
    if (SameInProgram(*its_before, *before)) return false;
    breaks = true;
  }
  return breaks;
}

// What the rank calls after `call` on the channel: now, or, if it has not come to it, after the
// same call of an earlier step.
const CollectiveEntry* Explainer::Next(const Channel& channel, int rank,
                                       const CollectiveEntry& call) const {
  if (const CollectiveEntry* next = CallAt(channel, rank, NumberOf(call) + 1)) return next;
  const Calls& calls = channels_.at(channel).at(rank);
  for (const auto& [number, earlier] : calls) {
    if (number >= NumberOf(call) || !SameInProgram(*earlier, call)) continue;
    if (const CollectiveEntry* next = CallAt(channel, rank, number + 1)) return next;
  }
  return nullptr;
}

std::vector<int> Explainer::WaitsFor(int rank, const CollectiveEntry& call) const {
  const Channel channel = ChannelOf(rank, call);
  std::vector<int> awaited;
  for (const int member : channel.Members()) {
    if (member == rank) continue;
    if (!records_.contains(member)) {
      awaited.push_back(member);
      continue;
    }
    const CollectiveEntry* theirs = CallAt(channel, member, NumberOf(call));
    const auto ranks = channels_.find(channel);
    const bool past = theirs == nullptr && ranks->second.contains(member) &&
                      ranks->second.at(member).begin()->first > NumberOf(call);
    if (past) continue;  // so long ago that its log has lost it
    if (theirs == nullptr || theirs->state == State::kEnqueued) awaited.push_back(member);
  }
  return awaited;
}

void Explainer::FindWaits() {
  for (const auto& [rank, record] : records_) {
    const CollectiveEntry* oldest = nullptr;
    for (const CollectiveEntry& call : record->calls) {
      if (call.state == State::kDone) continue;
      // A call that started is what the rank is in; those enqueued wait behind it.
      if (oldest == nullptr ||
          (oldest->state == State::kEnqueued && call.state != State::kEnqueued))
        oldest = &call;
    }
    if (oldest != nullptr) report_.waits.push_back({rank, *oldest, WaitsFor(rank, *oldest)});
  }
}

HangReport::Deviation Explainer::DeviationOf(int rank, const CollectiveEntry* instead) const {
  HangReport::Deviation deviation{.rank = rank, .has_log = records_.contains(rank)};
  if (instead != nullptr) deviation.call = *instead;
  if (instead != nullptr || !deviation.has_log) return deviation;
  for (const HangReport::Wait& wait : report_.waits) {
    if (wait.rank != rank) continue;
    deviation.call = wait.call;
    deviation.waits = true;
    return deviation;
  }
  if (!records_.at(rank)->calls.empty()) deviation.call = records_.at(rank)->calls.back();
  return deviation;
}

bool Explainer::ExplainDifference() {
  std::optional<Difference> first;
  const auto order = [this](const Difference& at) {
    const int rank = SidesAt(*at.channel, at.number)[0][0];
    const CollectiveEntry& call = *CallAt(*at.channel, rank, at.number);
    return std::tuple(call.place.step, call.id, rank);
  };
  for (const auto& [channel, ranks] : channels_) {
    const std::optional<uint64_t> number = FirstDifference(channel);
    if (!number) continue;
    const Difference found{&channel, *number};
    if (!first || order(found) < order(*first)) first = found;
  }
  if (!first) return false;

  const Channel& channel = *first->channel;
  Sides sides = SidesAt(channel, first->number);
  const auto breaks = [&](const std::vector<int>& side) {
    const int rank = side.front();
    return std::pair(BreaksOrderOf(channel, rank, first->number),
                     BreaksItsOrder(rank, *CallAt(channel, rank, first->number)).value_or(false));
  };
  std::stable_sort(sides.begin(), sides.end(), [&](const auto& a, const auto& b) {
    return a.size() != b.size() ? a.size() > b.size() : breaks(a) < breaks(b);
  });
  const bool tie = sides[0].size() == sides[1].size();
  report_.sure = !tie || breaks(sides[0]) != breaks(sides[1]);
  report_.kind = Kind::kDifferent;
  report_.group = channel.group;
  report_.ranks = sides[0];
  report_.call = *CallAt(channel, sides[0].front(), first->number);
  const CollectiveEntry* next = Next(channel, sides[0].front(), report_.call);
  for (size_t side = 1; side < sides.size(); ++side) {
    for (const int rank : sides[side]) {
      const CollectiveEntry* instead = CallAt(channel, rank, first->number);
      report_.deviations.push_back(DeviationOf(rank, instead));
      report_.deviations.back().left_out = next != nullptr && SameInProgram(*next, *instead);
    }
  }
  return true;
}

void Explainer::Blame(const HangReport::Wait& wait, const std::vector<int>& ranks) {
  const Channel channel = ChannelOf(wait.rank, wait.call);
  report_.group = channel.group;
  report_.call = wait.call;
  report_.ranks.clear();
  for (const int member : channel.Members()) {
    if (CallAt(channel, member, NumberOf(wait.call)) != nullptr) report_.ranks.push_back(member);
  }
  for (const int rank : ranks) report_.deviations.push_back(DeviationOf(rank, nullptr));
}

// Terminals: ranks that others wait for and that wait for nobody.
bool Explainer::ExplainByTerminal(const std::set<int>& terminals) {
  const HangReport::Wait* first = nullptr;
  const auto is_terminal = [&](int rank) { return terminals.contains(rank); };
  for (const HangReport::Wait& wait : report_.waits) {
    if (std::none_of(wait.waits_for.begin(), wait.waits_for.end(), is_terminal)) continue;
    if (first == nullptr || wait.call.place.step < first->call.place.step) first = &wait;
  }
  if (first == nullptr) return false;
  std::vector<int> blamed;
  std::copy_if(first->waits_for.begin(), first->waits_for.end(), std::back_inserter(blamed),
               is_terminal);
  report_.kind = Kind::kAbsent;
  Blame(*first, blamed);
  return true;
}

void Explainer::ExplainCycle() {
  report_.kind = Kind::kCycle;
  const HangReport::Wait* best = nullptr;
  for (const HangReport::Wait& wait : report_.waits) {
    for (const int rank : wait.waits_for) {
      for (const HangReport::Wait& other : report_.waits) {
        if (other.rank != rank || !BreaksItsOrder(rank, other.call).value_or(false)) continue;
        return Blame(wait, {rank});
      }
    }
    if (best == nullptr || wait.waits_for.size() < best->waits_for.size()) best = &wait;
  }
  const size_t absent = best->waits_for.size();
  report_.sure = absent * 2 < ChannelOf(best->rank, best->call).Members().size();
  Blame(*best, best->waits_for);
}

void Explainer::ExplainWaits() {
  std::set<int> waiting, silent(report_.silent.begin(), report_.silent.end()), idle;
  for (const HangReport::Wait& wait : report_.waits) waiting.insert(wait.rank);
  for (const auto& [rank, record] : records_) {
    if (!waiting.contains(rank)) idle.insert(rank);
  }
  if (ExplainByTerminal(silent) || ExplainByTerminal(idle)) return;
  for (const HangReport::Wait& wait : report_.waits) {
    if (!wait.waits_for.empty()) continue;
    report_.kind = Kind::kStuck;
    return Blame(wait, {});
  }
  if (!report_.waits.empty()) ExplainCycle();
}

HangReport Explainer::Explain() {
  FindWaits();
  if (!ExplainDifference()) ExplainWaits();
  return std::move(report_);
}

}  // namespace

HangReport ExplainHang(const std::vector<CollectiveRecord>& records) {
  return Explainer(records).Explain();
}

}  // namespace muster::parallel
