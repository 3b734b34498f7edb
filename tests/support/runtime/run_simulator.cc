#include "tests/support/runtime/run_simulator.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "tests/support/runtime/charge_truth.h"
#include "tests/support/runtime/ledger_bytes.h"
#include "tests/support/runtime/simulated_story.h"

namespace muster::runtime {
namespace {

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : dice_(seed) {
    world_ = static_cast<int>(dice_.Between(1, 6));
    num_steps_ = dice_.Between(3, 16);
    checkpoint_every_ = dice_.Between(1, 5);
    if (seed % 150 == 0) {  // a long story of failures
      max_attempts_ = 400;
      num_steps_ = dice_.Between(20, 40);
      failure_chance_ = 0.997;
    }
    int slots = 0;
    while (slots < world_) slots += (hosts_.emplace_back(NewHost())).slots;
    if (seed % 2 != 0) return;
    for (int64_t spares = dice_.Between(0, 2); spares > 0; --spares) spares_.push_back(NewHost());
    StartSupervisor();
  }

  SimulatedRun Run() {
    for (int attempt = 0; attempt < max_attempts_ && !done_; ++attempt) {
      const DeviceTime before = run_.time;
      attempts_.emplace_back();
      open_ = false;
      if (supervisor_ && dice_.Chance(0.05)) {
        FailedStart(attempt);
      } else {
        Attempt(attempt);
      }
      const auto spent = [&](State state) { return run_.time.At(state) - before.At(state); };
      for (const State state : {State::kLaunch, State::kInitRuntime, State::kInitModel,
                                State::kCheckpointLoad, State::kDataSeek, State::kWarmup}) {
        attempts_.back().start_up += spent(state);
      }
      attempts_.back().ending = spent(State::kDetect) + spent(State::kTeardown);
      if (supervisor_ && attempts_.back().failed) ChangeHosts();
      clock_ += dice_.Between(1, 50'000'000);
    }
    if (open_) attempts_.back().failed = false;  // as far as ledgers tell
    run_.open += open_ ? 1 : 0;
    Settle();
    if (supervisor_) run_.supervisors.push_back(supervisor_->bytes());
    return std::move(run_);
  }

 private:
  SimulatedHost NewHost() {
    const std::string name = "host-" + std::to_string(++num_hosts_);
    const int64_t clock_ns = num_hosts_ == 1 ? 0 : dice_.Between(-900'000'000, 900'000'000'000);
    return {name, 1000u + static_cast<uint64_t>(num_hosts_), clock_ns,
            static_cast<int>(dice_.Between(1, 3))};
  }

  void StartSupervisor() {
    const int number = static_cast<int>(run_.supervisors.size());
    supervisor_.emplace(hosts_[0].name, clock_ - 1,
                        kSimulatedRealtimeNs + dice_.Between(0, 1'000'000), hosts_[0].boot,
                        SchedulerJob{}, number);
  }

  // Ranks fill the hosts one after the other.
  const SimulatedHost& HostOf(int rank) const {
    size_t host = 0;
    for (; rank >= hosts_[host].slots; ++host) rank -= hosts_[host].slots;
    return hosts_[host];
  }

  // Hosts with the ranks on each; those of spares are none.
  std::vector<AttemptHost> AttemptHosts() const {
    std::vector<AttemptHost> all;
    int left = world_;
    for (const SimulatedHost& host : hosts_) {
      const int ranks = std::min(left, host.slots);
      left -= ranks;
      all.push_back({host.name, host.slots, ranks});
    }
    for (const SimulatedHost& spare : spares_) all.push_back({spare.name, spare.slots, 0});
    return all;
  }

  int Spares() const {
    if (!supervisor_) return 0;  // nobody knows of them
    int devices = 0;
    for (const AttemptHost& host : AttemptHosts()) devices += host.ranks == 0 ? host.devices : 0;
    return devices;
  }

  // After a failure: a spare may come in, or the world may become smaller.
  void ChangeHosts() {
    if (hosts_.size() > 1 && !spares_.empty() && dice_.Chance(0.2)) {
      hosts_[static_cast<size_t>(dice_.Between(1, static_cast<int64_t>(hosts_.size()) - 1))] =
          spares_.back();
      spare_in_ = spares_.back().name;
      spares_.pop_back();
      ++run_.spares_in;
    }
    int slots = 0;
    for (const SimulatedHost& host : hosts_) slots += host.slots;
    const int before = world_;
    if (world_ > 1 && dice_.Chance(0.15)) world_ = static_cast<int>(dice_.Between(1, world_ - 1));
    world_ = std::min(world_, slots);
    run_.shrinks += world_ < before ? 1 : 0;
  }

  void Attempt(int number) {
    Story story{.number = number, .first_execution = executions_.size()};
    const bool stops = dice_.Chance(0.07);
    const int64_t first_step = checkpoint_ + 1;
    story.plan = PlanAttempt(
        {.ranks = world_,
         .begin_ns = clock_,
         .first_step = first_step,
         .last_step = stops && first_step < num_steps_ ? dice_.Between(first_step, num_steps_ - 1)
                                                       : num_steps_,
         .checkpoint_every = checkpoint_every_,
         .stops = stops && first_step < num_steps_},
        dice_, &executions_);
    run_.rewinds += story.plan.rewinds;
    run_.stalls += story.plan.stalls;
    run_.skipped += story.plan.skipped;
    run_.several_ranks += world_ > 1 ? 1 : 0;
    run_.several_hosts += &HostOf(world_ - 1) != &hosts_[0] ? 1 : 0;
    Fail(stops && first_step < num_steps_, &story);
    if (story.traces.empty() || Visible(story) == 0) {
      Silence(&story);
    } else {
      if (supervisor_) Supervise(story);
      Book(story);
      Resume(story);
    }
    const Watch& watch = story.watch;
    open_ = supervisor_ ? watch.dies && !watch.failed : attempts_.back().failed;
    for (const RankPlan& plan : story.plan.ranks) clock_ = std::max(clock_, plan.end_ns);
    clock_ = std::max(clock_, watch.end);
    if (watch.dies) {
      run_.supervisors.push_back(supervisor_->bytes());
      clock_ += dice_.Between(1, 1'000'000);
      StartSupervisor();
      ++run_.supervisor_deaths;
    }
  }

  static int Visible(const Story& story) {
    return static_cast<int>(std::count_if(story.traces.begin(), story.traces.end(),
                                          [](const RankTrace& trace) { return !trace.lost; }));
  }

  // Decides whether and how the attempt fails, and what its ledgers then show.
  void Fail(bool stops, Story* story) {
    const std::vector<RankPlan>& plans = story->plan.ranks;
    int64_t last = 0;
    for (const RankPlan& plan : plans) last = std::max(last, plan.end_ns);
    const bool fails = dice_.Chance(failure_chance_);
    const auto victim = static_cast<size_t>(dice_.Between(0, world_ - 1));
    const bool hang = fails && dice_.Chance(0.3);
    Watch& watch = story->watch;
    watch.dies = fails && supervisor_ && dice_.Chance(0.1);
    // The victim's last instant, and the supervisor's kill of the others.
    story->death = fails ? dice_.Between(plans[victim].ledger_ns, last) : last;
    const int64_t kill =
        story->death + (hang ? dice_.Between(5'000'000, 60'000'000) : dice_.Between(0, 3'000'000));
    if (fails) ++(hang ? run_.hangs : run_.crashes);
    run_.stops += stops && !fails ? 1 : 0;
    done_ = !fails && !stops;
    story->exit_code = stops ? 75 : 0;
    attempts_.back().failed = fails;
    for (size_t r = 0; r < plans.size(); ++r) {
      // The others come a little further than the victim: maybe to a step's end that it missed.
      const int64_t stuck =
          fails ? story->death + (r == victim ? 0 : dice_.Between(0, 300'000)) : last;
      story->traces.push_back(
          Trace(*story, r, stuck, r == victim ? story->death : std::max(kill, stuck), !fails));
      story->traces.back().lost = plans[r].ledger_ns > stuck || dice_.Chance(0.01);
    }
    if (Visible(*story) == 0) story->traces[victim].lost = false;
    // Times are exact only if somebody's clock is the supervisor's.
    const bool at_home = std::any_of(story->traces.begin(), story->traces.end(), [&](auto& trace) {
      const int rank = static_cast<int>(&trace - story->traces.data());
      return !trace.lost && &HostOf(rank) == &hosts_[0];
    });
    if (supervisor_ && !at_home) {
      for (RankTrace& trace : story->traces) trace.lost = true;
    }
    watch.begin = clock_;
    int64_t gone = fails ? kill : last;
    for (const RankTrace& trace : story->traces) gone = std::max(gone, trace.last_ns);
    watch.end = gone + dice_.Between(0, 10'000'000);
    if (!fails) return;
    // A stopped rank is silent; a killed one leaves when it dies. A supervisor that dies may have
    // noticed, and may have begun to kill.
    if (watch.dies && dice_.Chance(0.5)) return;
    watch.failed = story->death;
    if (dice_.Chance(watch.dies ? 0.5 : 0.8)) watch.kill = kill + dice_.Between(0, 1'000'000);
    watch.noticed = dice_.Between(*watch.failed, watch.kill.value_or(kill));
    watch.end = std::max(watch.end, watch.kill.value_or(*watch.noticed));
    run_.none_to_kill += !watch.dies && !watch.kill ? 1 : 0;
  }

  // When the supervisor began to kill, or, with nothing left to kill, went on to what follows.
  static std::optional<int64_t> TornDownFrom(const Watch& watch) {
    return watch.kill || watch.dies ? watch.kill : watch.noticed;
  }

  RankTrace Trace(const Story& story, size_t rank, int64_t stuck_ns, int64_t gone_ns, bool clean) {
    const RankPlan& plan = story.plan.ranks[rank];
    RankTrace trace;
    trace.last_ns = plan.ledger_ns;
    while (trace.spans < plan.spans.size() && plan.spans[trace.spans].begin_ns <= stuck_ns) {
      trace.last_ns = std::max(trace.last_ns, plan.spans[trace.spans++].begin_ns);
    }
    trace.ended = clean;
    for (int64_t beat = plan.ledger_ns; beat <= gone_ns;
         beat += dice_.Between(100'000, 3'000'000)) {
      if (clean && beat > plan.end_ns) break;
      trace.beats.push_back(beat);
      trace.last_ns = std::max(trace.last_ns, beat);
    }
    if (rank == 0) {
      for (const SimulatedSave& save : story.plan.saves) {
        if (save.committed_ns <= story.death) {
          trace.last_ns = std::max(trace.last_ns, save.committed_ns);
        }
      }
    }
    if (clean) trace.last_ns = plan.end_ns;
    return trace;
  }

  void Supervise(const Story& story) {
    const Watch& watch = story.watch;
    BeginSupervised(watch.begin, story.number);
    if (watch.failed) {
      // Stragglers and a first guess are no failure of their own.
      if (dice_.Chance(0.2)) {
        supervisor_->Detect(*watch.noticed, story.number, FailureKind::kStraggler, *watch.failed);
      }
      if (dice_.Chance(0.2)) {
        supervisor_->Detect(*watch.noticed, story.number, FailureKind::kError, watch.begin);
      }
      supervisor_->Detect(*watch.noticed, story.number, FailureKind::kCrash, *watch.failed);
      if (watch.kill) supervisor_->Teardown(*watch.kill, story.number);
    }
    if (!watch.dies) supervisor_->AttemptEnd(watch.end, story.number);
  }

  void BeginSupervised(int64_t at_ns, int attempt) {
    supervisor_->AttemptBegin(at_ns, attempt, world_);
    for (const AttemptHost& host : AttemptHosts()) supervisor_->Host(at_ns, attempt, host);
    if (!spare_in_.empty()) supervisor_->SpareIn(at_ns, attempt, std::exchange(spare_in_, ""));
  }

  // No rank comes up: all is launch until that is noticed.
  void FailedStart(int attempt) {
    Story story{.number = attempt};
    story.first_execution = executions_.size();
    story.watch.begin = clock_;
    story.watch.failed = clock_ + dice_.Between(0, 20'000'000);
    story.watch.noticed = dice_.Between(*story.watch.failed, *story.watch.failed + 1'000'000);
    story.watch.kill = *story.watch.noticed + dice_.Between(0, 5'000'000);
    story.watch.end = *story.watch.kill + dice_.Between(0, 5'000'000);
    Silence(&story);
    clock_ = story.watch.end;
  }

  // Of an attempt that no rank's ledger tells of: what its supervisor tells.
  void Silence(Story* story) {
    Supervise(*story);
    run_.ledgers.emplace_back(static_cast<size_t>(world_));
    executions_.resize(story->first_execution);
    attempts_.back().failed = true;
    ++run_.failed_starts;
    done_ = false;
    const Watch& watch = story->watch;
    const int64_t end =
        watch.dies ? watch.kill.value_or(watch.noticed.value_or(watch.begin)) : watch.end;
    const int64_t kill = TornDownFrom(watch).value_or(end), failed = watch.failed.value_or(kill);
    const DeviceNs ranks = world_;
    run_.time.At(State::kLaunch) += ranks * (failed - watch.begin);
    run_.time.At(State::kDetect) += ranks * (kill - failed);
    run_.time.At(State::kTeardown) += ranks * (end - kill);
    Allocate(watch.begin, end);
  }

  void Allocate(int64_t begin, int64_t end) {
    run_.allocated += DeviceNs{end - begin} * (world_ + Spares());
    run_.time.At(State::kSpareIdle) += DeviceNs{end - begin} * Spares();
    run_.gaps.push_back(run_.gaps.empty() ? 0 : begin - last_end_);
    last_end_ = end;
  }

  void Book(const Story& story) {
    const std::vector<RankPlan>& plans = story.plan.ranks;
    const Watch& watch = story.watch;
    int64_t begin = INT64_MAX, end = 0;
    for (size_t r = 0; r < plans.size(); ++r) {
      if (story.traces[r].lost) continue;
      begin = std::min(begin, plans[r].process_start_ns);
      end = std::max(end, story.traces[r].last_ns);
    }
    if (supervisor_) {
      begin = watch.begin;
      end = watch.dies ? std::max({end, watch.kill.value_or(0), watch.noticed.value_or(0)})
                       : watch.end;
    }
    FindComplete(story);
    std::vector<std::string>& files = run_.ledgers.emplace_back();
    for (size_t r = 0; r < plans.size(); ++r) {
      files.push_back(story.traces[r].lost
                          ? ""
                          : WriteRankLedger(story, static_cast<int>(r), HostOf(static_cast<int>(r)),
                                            checkpoint_, executions_, dice_));
      if (story.traces[r].lost) {
        ++run_.lost_ledgers;
        run_.time.At(State::kUnknown) += end - begin;
      } else {
        BookRank(story, r, begin, end);
      }
    }
    Allocate(begin, end);
    NoteAtRisk(story);
  }

  // Marks what every rank (whose ledger is there) was seen to end, and what going back undid.
  void FindComplete(const Story& story) {
    std::map<int, int> ended;
    int furthest = -1;
    bool restored = false;
    for (size_t r = 0; r < story.traces.size(); ++r) {
      const RankTrace& trace = story.traces[r];
      if (trace.lost) continue;
      for (size_t s = 0; s < trace.spans; ++s) {
        const SimulatedSpan& span = story.plan.ranks[r].spans[s];
        restored = restored || span.state == State::kDataSeek;
        if (span.execution < 0) continue;
        furthest = std::max(furthest, span.execution);
        if (s + 1 < trace.spans) ++ended[span.execution];
      }
    }
    for (const auto& [execution, ranks] : ended) {
      executions_[static_cast<size_t>(execution)].complete = ranks == Visible(story);
    }
    executions_begun_ = static_cast<size_t>(furthest + 1);
    if (!restored) return;
    SimulatedAttempt& attempt = attempts_.back();
    attempt.first_step = checkpoint_ + 1;
    std::set<int64_t> undone;
    for (size_t before = 0; before < story.first_execution; ++before) {
      if (RollBack(*attempt.first_step, before) && executions_[before].complete) {
        undone.insert(executions_[before].step);
      }
    }
    attempt.undone.assign(undone.begin(), undone.end());
    // Begun executions, in order: each undoes what it repeats, and all behind that.
    for (int now = static_cast<int>(story.first_execution); now <= furthest; ++now) {
      executed_.insert(executions_[static_cast<size_t>(now)].step);
      for (size_t before = story.first_execution; before < static_cast<size_t>(now); ++before) {
        RollBack(executions_[static_cast<size_t>(now)].step, before);
      }
    }
  }

  bool RollBack(int64_t to_step, size_t execution) {
    SimulatedExecution& earlier = executions_[execution];
    if (earlier.rolled_back || earlier.step < to_step) return false;
    return earlier.rolled_back = true;
  }

  void BookRank(const Story& story, size_t rank, int64_t begin, int64_t end) {
    const RankPlan& plan = story.plan.ranks[rank];
    const RankTrace& trace = story.traces[rank];
    const Watch& watch = story.watch;
    int64_t last = trace.last_ns, kill = end;
    if (supervisor_ && watch.failed && !trace.ended) {
      // Whatever the rank was in when the job failed, from then on it is waiting for the notice.
      const int64_t begun =
          trace.spans > 0 ? plan.spans[trace.spans - 1].begin_ns : plan.process_start_ns;
      last = std::max(begun, *watch.failed);
      kill = std::max(last, TornDownFrom(watch).value_or(end));
    }
    const int64_t first = trace.spans > 0 ? plan.spans[0].begin_ns : last;
    run_.time.At(State::kLaunch) += first - begin;
    for (size_t s = 0; s < trace.spans; ++s) {
      const SimulatedSpan& span = plan.spans[s];
      const bool closed = s + 1 < trace.spans;
      const int64_t until = closed ? plan.spans[s + 1].begin_ns : last;
      if (span.state != State::kStep) {
        run_.time.At(span.state) += until - span.begin_ns;
      } else if (closed && executions_[static_cast<size_t>(span.execution)].complete) {
        step_times_.push_back({span.execution, span.parts});
      } else {
        run_.time.lost_partial += until - span.begin_ns;
      }
    }
    const State tail = !trace.ended            ? State::kDetect
                       : story.exit_code == 75 ? State::kDrain
                                               : State::kTeardown;
    run_.time.At(tail) += kill - last;
    run_.time.At(State::kTeardown) += end - kill;
  }

  // Of the last attempt that went on: executions that no commit of it covers, as rank 0 knows.
  void NoteAtRisk(const Story& story) {
    if (!attempts_.back().first_step) return;
    at_risk_.clear();
    const SimulatedSave* newest = nullptr;
    for (const SimulatedSave& save : story.plan.saves) {
      if (!story.traces[0].lost && save.committed_ns <= story.death) newest = &save;
    }
    for (size_t e = story.first_execution; e < executions_.size(); ++e) {
      const bool covered =
          newest != nullptr && e < newest->executions_before && executions_[e].step <= newest->step;
      if (!covered) at_risk_.insert(e);
    }
  }

  // A run that has gone back behind a save has left its line of states.
  bool WentBackBehind(const SimulatedSave& save) const {
    for (size_t e = save.executions_before; e < executions_begun_; ++e) {
      if (executions_[e].step <= save.step) return true;
    }
    return false;
  }

  // Chooses the checkpoint that the next attempt loads: the newest committed, or an older one.
  void Resume(const Story& story) {
    for (const SimulatedSave& save : story.plan.saves) {
      if (save.committed_ns <= story.death && !WentBackBehind(save)) {
        checkpoints_.push_back(save.step);
      }
    }
    if (Visible(story) < world_) {
      // With a ledger gone, what was complete is known from the others: never resume beyond it.
      int64_t complete = 0;
      for (const SimulatedExecution& e : executions_) {
        if (e.complete && !e.rolled_back) complete = std::max(complete, e.step);
      }
      std::erase_if(checkpoints_, [complete](int64_t step) { return step > complete; });
    }
    std::sort(checkpoints_.begin(), checkpoints_.end());
    if (!checkpoints_.empty() && dice_.Chance(0.2)) {
      checkpoints_.pop_back();
      ++run_.fallbacks;
    }
    checkpoint_ = checkpoints_.empty() ? 0 : checkpoints_.back();
  }

  void Settle() {
    for (const StepTime& part : step_times_) {
      const SimulatedExecution& execution = executions_[static_cast<size_t>(part.execution)];
      StepFate fate = execution.skipped ? StepFate::kSkipped : StepFate::kProductive;
      if (execution.rolled_back) fate = StepFate::kRework;
      StepCharge& charge = run_.charges[execution.step];
      for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
        run_.time.step[static_cast<int>(fate)][c] += part.parts[c];
        (execution.rolled_back ? charge.rework : charge.execution) += part.parts[c];
      }
      if (fate != StepFate::kProductive) continue;
      run_.productive_flops += execution.flops;
      run_.goodput[execution.step] +=
          execution.flops / kSimulatedPeakFlops;  // seconds: divided below
    }
    AddFailures(attempts_, executed_, &run_.charges, &run_.uncharged);
    for (auto& [step, goodput] : run_.goodput) {
      goodput /= static_cast<double>(run_.charges[step].Total()) * 1e-9;
    }
    for (size_t e = 0; e < executions_.size(); ++e) {
      const SimulatedExecution& execution = executions_[e];
      if (!execution.complete || execution.rolled_back || execution.skipped) continue;
      ++run_.productive_steps;
      if (!done_ && at_risk_.contains(e)) run_.at_risk.insert(execution.step);
    }
    Uncharged& rest = run_.uncharged;
    rest.lost_partial = run_.time.lost_partial;
    rest.evaluation = run_.time.At(State::kEval);
    rest.checkpoint_stall = run_.time.At(State::kCheckpointStall);
    rest.unknown = run_.time.At(State::kUnknown);
    rest.spare_idle = run_.time.At(State::kSpareIdle);
    rest.drain = run_.time.At(State::kDrain);
  }

  // A piece of a rank's step: settled once it is known which executions survive.
  struct StepTime {
    int execution = 0;
    StepParts parts{};
  };

  Dice dice_;
  SimulatedRun run_;
  int world_ = 1, num_hosts_ = 0;
  std::vector<SimulatedHost> hosts_, spares_;
  std::string spare_in_;  // for the next attempt
  int64_t num_steps_ = 0, checkpoint_every_ = 1;
  int64_t clock_ = 1'000'000'000, last_end_ = 0;
  int max_attempts_ = 5;
  double failure_chance_ = 0.75;
  std::optional<SupervisorBytes> supervisor_;
  bool done_ = false;
  bool open_ = false;                           // nothing tells that the last attempt has ended
  int64_t checkpoint_ = 0;                      // of the step that the next attempt resumes behind
  std::vector<int64_t> checkpoints_;            // committed
  std::vector<SimulatedExecution> executions_;  // in the order of time
  size_t executions_begun_ = 0;                 // as ledgers show
  std::set<int64_t> executed_;                  // step numbers that ledgers show
  std::set<size_t> at_risk_;                    // executions
  std::vector<SimulatedAttempt> attempts_;
  std::vector<StepTime> step_times_;
};

}  // namespace

SimulatedRun Simulate(uint64_t seed) { return Simulation(seed).Run(); }

}  // namespace muster::runtime
