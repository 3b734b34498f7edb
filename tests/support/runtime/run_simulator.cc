#include "tests/support/runtime/run_simulator.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "tests/support/runtime/charge_truth.h"
#include "tests/support/runtime/ledger_bytes.h"

namespace muster::runtime {
namespace {

constexpr double kPeakFlops = 1e12;
constexpr int64_t kRealtimeOffsetNs = 1'700'000'000'000'000'000;

using Parts = std::array<int64_t, parallel::kNumTimeCategories>;

// What a rank does from `begin_ns` until its next span begins.
struct Span {
  int64_t begin_ns = 0;
  State state = State::kUnknown;
  int execution = -1;   // kStep: index of the simulation's executions
  int64_t end_ns = -1;  // kStep: when it ends; the next span begins there
  Parts parts{};
};

struct RankPlan {
  int64_t process_start_ns = 0, ledger_ns = 0, end_ns = 0;
  std::vector<Span> spans;
};

// One pass through a step, by all ranks.
struct Execution {
  int64_t step = 0;
  bool skipped = false, complete = false, rolled_back = false;
  double flops = 0;  // of a rank
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed) {
    run_.world_size = static_cast<int>(Between(1, 6));
    num_steps_ = Between(3, 16);
    checkpoint_every_ = Between(1, 5);
    if (seed % 150 == 0) {  // a long story of failures
      max_attempts_ = 400;
      num_steps_ = Between(20, 40);
      failure_chance_ = 0.997;
    }
    if (seed % 2 == 0) supervisor_.emplace("host-a", clock_ - 1, kRealtimeOffsetNs);
  }

  SimulatedRun Run() {
    for (int attempt = 0; attempt < max_attempts_ && !done_; ++attempt) {
      const DeviceTime before = run_.time;
      attempts_.emplace_back();
      if (supervisor_ && Chance(0.05)) {
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
      attempts_.back().failed = !done_;
      clock_ += Between(1, 50'000'000);
    }
    Settle();
    if (supervisor_) run_.supervisor = supervisor_->bytes();
    return std::move(run_);
  }

 private:
  // A piece of a rank's step: settled once it is known which executions survive.
  struct StepTime {
    int execution = 0;
    Parts parts{};
  };

  int64_t Between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(random_); }

  Parts Split(int64_t ns) {
    Parts parts{};
    for (int cut = 0; cut < 5; ++cut) {
      const int64_t part = Between(0, ns);
      parts[Between(0, parallel::kNumTimeCategories - 1)] += part;
      ns -= part;
    }
    parts[parallel::kCompute] += ns;
    return parts;
  }

  // Adds a phase that all ranks are in, and leave about together.
  void Phase(State state, int64_t longest_ns, std::vector<RankPlan>* plans) {
    for (RankPlan& plan : *plans) {
      plan.spans.push_back({plan.end_ns, state, -1, -1, {}});
      plan.end_ns += Between(0, longest_ns);
    }
  }

  void Step(int64_t step, std::vector<RankPlan>* plans) {
    const int index = static_cast<int>(executions_.size());
    executions_.push_back({step, Chance(0.05), false, false, double(Between(1, 1'000'000))});
    run_.skipped += executions_.back().skipped ? 1 : 0;
    int64_t last = 0;
    for (const RankPlan& plan : *plans) last = std::max(last, plan.end_ns);
    int64_t end = last + Between(100'000, 5'000'000);
    const int64_t stall = Chance(0.03) ? Between(20'000'000, 200'000'000) : 0;
    run_.stalls += stall > 0 ? 1 : 0;
    for (RankPlan& plan : *plans) {
      const int64_t own_end = end + stall + Between(0, 20'000);
      Parts parts = Split(own_end - stall - plan.end_ns);
      parts[parallel::kData] += stall;  // all wait for the same file
      plan.spans.push_back({plan.end_ns, State::kStep, index, own_end, parts});
      // Behind a step a rank is in no named state until it enters one.
      plan.spans.push_back({own_end, State::kUnknown, -1, -1, {}});
      plan.end_ns = own_end + (Chance(0.5) ? 0 : Between(0, 5'000));
    }
  }

  // The whole attempt as it would go without a failure. Notes when each checkpoint is committed.
  std::vector<RankPlan> Plan(int64_t first_step, std::map<int64_t, int64_t>* committed_ns) {
    std::vector<RankPlan> plans(run_.world_size);
    for (RankPlan& plan : plans) {
      plan.process_start_ns = clock_ + Between(0, 5'000'000);
      plan.ledger_ns = plan.process_start_ns + Between(0, 2'000'000);
      plan.end_ns = plan.ledger_ns + Between(0, 1'000'000);
    }
    for (const State state : {State::kInitRuntime, State::kInitModel, State::kCheckpointLoad,
                              State::kDataSeek, State::kWarmup}) {
      Phase(state, 10'000'000, &plans);
    }
    for (int64_t step = first_step; step <= num_steps_; ++step) {
      Step(step, &plans);
      if (Chance(0.1)) Phase(State::kEval, 3'000'000, &plans);
      if (step % checkpoint_every_ == 0) {
        Phase(State::kCheckpointStall, 8'000'000, &plans);
        int64_t& committed = (*committed_ns)[step] = 0;
        for (RankPlan& plan : plans) committed = std::max(committed, plan.end_ns);
        // Every rank is past the save before the job goes on.
        for (RankPlan& plan : plans) plan.end_ns = committed;
      }
      if (Chance(0.03)) {  // go back without a restart
        step = std::max<int64_t>(first_step, step - Between(0, 3)) - 1;
        ++run_.rewinds;
      }
    }
    Phase(State::kTeardown, 1'000'000, &plans);
    return plans;
  }

  void Attempt(int attempt) {
    const int64_t first_step = checkpoint_ + 1;
    std::map<int64_t, int64_t> committed_ns;
    const size_t first_execution = executions_.size();
    std::vector<RankPlan> plans = Plan(first_step, &committed_ns);

    int64_t last = 0;
    for (const RankPlan& plan : plans) last = std::max(last, plan.end_ns);
    const bool fails = Chance(failure_chance_);
    const int victim = static_cast<int>(Between(0, run_.world_size - 1));
    const bool hang = fails && Chance(0.3);
    // The victim's last instant, and the supervisor's kill of the others.
    const int64_t death = fails ? Between(plans[victim].ledger_ns, last) : last;
    const int64_t kill = death + (hang ? Between(5'000'000, 60'000'000) : Between(0, 3'000'000));
    (hang ? run_.hangs : run_.crashes) += fails ? 1 : 0;
    done_ = !fails;

    std::vector<RankTrace> traces;
    for (int r = 0; r < run_.world_size; ++r) {
      // The others come a little further than the victim: maybe to a step's end that it missed.
      const int64_t stuck = fails ? death + (r == victim ? 0 : Between(0, 300'000)) : last;
      traces.push_back(Trace(plans[r], stuck, r == victim ? death : std::max(kill, stuck), !fails));
      traces.back().lost = plans[r].ledger_ns > stuck || Chance(0.01);
    }
    if (std::all_of(traces.begin(), traces.end(), [](const RankTrace& t) { return t.lost; })) {
      traces[victim].lost = false;
    }
    Watch watch;
    watch.begin = clock_;
    int64_t gone = fails ? kill : last;
    for (const RankTrace& trace : traces) gone = std::max(gone, trace.last_ns);
    watch.end = gone + Between(0, 10'000'000);
    if (fails) {
      // A stopped rank is silent; a killed one leaves when it dies.
      watch.failed = death;
      watch.kill = kill + Between(0, 1'000'000);
      watch.end = std::max(watch.end, *watch.kill);
    }
    if (supervisor_) Supervise(attempt, hang ? FailureKind::kHang : FailureKind::kCrash, watch);
    Book(attempt, plans, traces, first_execution, watch);
    Resume(committed_ns, death, traces);
    clock_ = std::max({last, kill, clock_, watch.end});
  }

  // What the supervisor knows of an attempt.
  struct Watch {
    int64_t begin = 0, end = 0;
    std::optional<int64_t> failed, kill;
  };

  void Supervise(int attempt, FailureKind kind, const Watch& watch) {
    supervisor_->AttemptBegin(watch.begin, attempt, run_.world_size);
    if (watch.failed) {
      // Stragglers and a first guess are no failure of their own.
      const int64_t noticed = Between(*watch.failed, *watch.kill);
      if (Chance(0.2)) {
        supervisor_->Detect(noticed, attempt, FailureKind::kStraggler, *watch.failed);
      }
      if (Chance(0.2)) supervisor_->Detect(noticed, attempt, FailureKind::kError, watch.begin);
      supervisor_->Detect(noticed, attempt, kind, *watch.failed);
      supervisor_->Teardown(*watch.kill, attempt);
    }
    supervisor_->AttemptEnd(watch.end, attempt);
  }

  // No rank comes up: all is launch until that is noticed.
  void FailedStart(int attempt) {
    Watch watch;
    watch.begin = clock_;
    watch.failed = clock_ + Between(0, 20'000'000);
    watch.kill = *watch.failed + Between(0, 5'000'000);
    watch.end = *watch.kill + Between(0, 5'000'000);
    Supervise(attempt, FailureKind::kLaunch, watch);
    run_.ledgers.emplace_back(static_cast<size_t>(run_.world_size));
    ++run_.failed_starts;
    const DeviceNs ranks = run_.world_size;
    run_.time.At(State::kLaunch) += ranks * (*watch.failed - watch.begin);
    run_.time.At(State::kDetect) += ranks * (*watch.kill - *watch.failed);
    run_.time.At(State::kTeardown) += ranks * (watch.end - *watch.kill);
    run_.allocated += ranks * (watch.end - watch.begin);
    clock_ = watch.end;
  }

  // What a rank's ledger shows of its plan.
  struct RankTrace {
    bool lost = false, ended = false;
    size_t spans = 0;     // whose begin was recorded
    int64_t last_ns = 0;  // the last record
    std::vector<int64_t> beats;
  };

  RankTrace Trace(const RankPlan& plan, int64_t stuck_ns, int64_t gone_ns, bool clean) {
    RankTrace trace;
    trace.last_ns = plan.ledger_ns;
    while (trace.spans < plan.spans.size() && plan.spans[trace.spans].begin_ns <= stuck_ns) {
      trace.last_ns = std::max(trace.last_ns, plan.spans[trace.spans++].begin_ns);
    }
    trace.ended = clean;
    for (int64_t beat = plan.ledger_ns; beat <= gone_ns; beat += Between(100'000, 3'000'000)) {
      if (clean && beat > plan.end_ns) break;
      trace.beats.push_back(beat);
      trace.last_ns = std::max(trace.last_ns, beat);
    }
    if (clean) trace.last_ns = plan.end_ns;
    return trace;
  }

  void Book(int attempt, const std::vector<RankPlan>& plans, const std::vector<RankTrace>& traces,
            size_t first_execution, const Watch& watch) {
    int64_t begin = INT64_MAX, end = 0;
    for (size_t r = 0; r < plans.size(); ++r) {
      if (traces[r].lost) continue;
      begin = std::min(begin, plans[r].process_start_ns);
      end = std::max(end, traces[r].last_ns);
    }
    if (supervisor_) {
      begin = watch.begin;
      end = watch.end;
    }
    FindComplete(plans, traces, first_execution);
    std::vector<std::string>& files = run_.ledgers.emplace_back();
    for (size_t r = 0; r < plans.size(); ++r) {
      files.push_back(traces[r].lost ? "" : Write(attempt, int(r), plans[r], traces[r]));
      if (traces[r].lost) {
        ++run_.lost_ledgers;
        run_.time.At(State::kUnknown) += end - begin;
      } else {
        BookRank(plans[r], traces[r], begin, end, watch);
      }
    }
    run_.allocated += DeviceNs{end - begin} * run_.world_size;
  }

  // Marks what every rank (whose ledger is there) was seen to end, and what going back undid.
  void FindComplete(const std::vector<RankPlan>& plans, const std::vector<RankTrace>& traces,
                    size_t first_execution) {
    std::map<int, int> ended;
    int seen = 0, furthest = -1;
    for (size_t r = 0; r < plans.size(); ++r) {
      if (traces[r].lost) continue;
      ++seen;
      for (size_t s = 0; s < traces[r].spans; ++s) {
        const int execution = plans[r].spans[s].execution;
        if (execution < 0) continue;
        furthest = std::max(furthest, execution);
        if (s + 1 < traces[r].spans) ++ended[execution];
      }
    }
    for (const auto& [execution, ranks] : ended) executions_[execution].complete = ranks == seen;
    // Begun executions, in order: each undoes what it repeats, and all behind that.
    std::set<int64_t> undone;
    for (int now = static_cast<int>(first_execution); now <= furthest; ++now) {
      for (int before = 0; before < now; ++before) {
        Execution& earlier = executions_[before];
        if (earlier.rolled_back || earlier.step < executions_[now].step) continue;
        earlier.rolled_back = true;
        const bool of_another_attempt = before < static_cast<int>(first_execution);
        if (of_another_attempt && earlier.complete) undone.insert(earlier.step);
      }
    }
    if (furthest < 0) return;
    attempts_.back().first_step = executions_[first_execution].step;
    attempts_.back().undone.assign(undone.begin(), undone.end());
  }

  void BookRank(const RankPlan& plan, const RankTrace& trace, int64_t begin, int64_t end,
                const Watch& watch) {
    int64_t last = trace.last_ns, kill = end;
    if (supervisor_ && !trace.ended) {
      // Whatever the rank was in when the job failed, from then on it is waiting for the notice.
      const int64_t begun =
          trace.spans > 0 ? plan.spans[trace.spans - 1].begin_ns : plan.process_start_ns;
      last = std::max(begun, *watch.failed);
      kill = std::max(last, *watch.kill);
    }
    const int64_t first = trace.spans > 0 ? plan.spans[0].begin_ns : last;
    run_.time.At(State::kLaunch) += first - begin;
    for (size_t s = 0; s < trace.spans; ++s) {
      const Span& span = plan.spans[s];
      const bool closed = s + 1 < trace.spans;
      const int64_t until = closed ? plan.spans[s + 1].begin_ns : last;
      if (span.state != State::kStep) {
        run_.time.At(span.state) += until - span.begin_ns;
      } else if (closed && executions_[span.execution].complete) {
        step_times_.push_back({span.execution, span.parts});
      } else {
        run_.time.lost_partial += until - span.begin_ns;
      }
    }
    run_.time.At(trace.ended ? State::kTeardown : State::kDetect) += kill - last;
    run_.time.At(State::kTeardown) += end - kill;
  }

  std::string Write(int attempt, int rank, const RankPlan& plan, const RankTrace& trace) {
    AttemptBegin begin;
    begin.attempt = attempt;
    begin.rank = rank;
    begin.world_size = run_.world_size;
    begin.peak_flops = kPeakFlops;
    begin.host = "host-a";
    begin.process_start_monotonic_ns = plan.process_start_ns;
    LedgerBytes file(begin, plan.ledger_ns, kRealtimeOffsetNs);
    size_t beat = 0;
    const auto beat_until = [&](int64_t at_ns) {
      for (; beat < trace.beats.size() && trace.beats[beat] <= at_ns; ++beat) {
        file.Heartbeat(trace.beats[beat]);
      }
    };
    for (size_t s = 0; s < trace.spans; ++s) {
      const Span& span = plan.spans[s];
      beat_until(span.begin_ns);
      if (s > 0 && plan.spans[s - 1].state == State::kStep) {
        const Execution& execution = executions_[plan.spans[s - 1].execution];
        StepEnd end;
        end.step = execution.step;
        end.skipped = execution.skipped;
        end.model_flops = execution.flops;
        end.tokens = 100;
        end.time_ns = plan.spans[s - 1].parts;
        file.StepEnded(span.begin_ns, end);
      } else if (span.state == State::kStep) {
        file.StepBegin(span.begin_ns, executions_[span.execution].step);
      } else {
        file.Enter(span.begin_ns, span.state);
      }
    }
    beat_until(INT64_MAX);
    if (trace.ended) file.End(plan.end_ns, 0);
    return file.bytes();
  }

  // Chooses the checkpoint that the next attempt loads: the newest committed, or an older one.
  void Resume(const std::map<int64_t, int64_t>& committed_ns, int64_t death,
              const std::vector<RankTrace>& traces) {
    for (const auto& [step, at_ns] : committed_ns) {
      if (at_ns <= death) checkpoints_.push_back(step);
    }
    if (std::any_of(traces.begin(), traces.end(), [](const RankTrace& t) { return t.lost; })) {
      // With a ledger gone, what was complete is known from the others: never resume beyond it.
      int64_t complete = 0;
      for (const Execution& e : executions_) {
        if (e.complete && !e.rolled_back) complete = std::max(complete, e.step);
      }
      std::erase_if(checkpoints_, [complete](int64_t step) { return step > complete; });
    }
    std::sort(checkpoints_.begin(), checkpoints_.end());
    if (!checkpoints_.empty() && Chance(0.2)) {
      checkpoints_.pop_back();
      ++run_.fallbacks;
    }
    checkpoint_ = checkpoints_.empty() ? 0 : checkpoints_.back();
  }

  void Settle() {
    for (const StepTime& part : step_times_) {
      const Execution& execution = executions_[part.execution];
      StepFate fate = execution.skipped ? StepFate::kSkipped : StepFate::kProductive;
      if (execution.rolled_back) fate = StepFate::kRework;
      StepCharge& charge = run_.charges[execution.step];
      for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
        run_.time.step[static_cast<int>(fate)][c] += part.parts[c];
        (execution.rolled_back ? charge.rework : charge.execution) += part.parts[c];
      }
      if (fate != StepFate::kProductive) continue;
      run_.productive_flops += execution.flops;
      run_.goodput[execution.step] += execution.flops / kPeakFlops;  // seconds: divided below
    }
    AddFailures(attempts_, &run_.charges, &run_.uncharged);
    for (auto& [step, goodput] : run_.goodput) {
      goodput /= static_cast<double>(run_.charges[step].Total()) * 1e-9;
    }
    run_.uncharged.lost_partial = run_.time.lost_partial;
    run_.uncharged.evaluation = run_.time.At(State::kEval);
    run_.uncharged.checkpoint_stall = run_.time.At(State::kCheckpointStall);
    run_.uncharged.unknown = run_.time.At(State::kUnknown);
    for (const Execution& execution : executions_) {
      run_.productive_steps +=
          execution.complete && !execution.rolled_back && !execution.skipped ? 1 : 0;
    }
  }

  std::mt19937_64 random_;
  SimulatedRun run_;
  int64_t num_steps_ = 0, checkpoint_every_ = 1;
  int64_t clock_ = 1'000'000'000;
  int max_attempts_ = 5;
  double failure_chance_ = 0.75;
  std::optional<SupervisorBytes> supervisor_;
  bool done_ = false;
  int64_t checkpoint_ = 0;             // of the step that the next attempt resumes behind
  std::vector<int64_t> checkpoints_;   // committed
  std::vector<Execution> executions_;  // in the order of time
  std::vector<SimulatedAttempt> attempts_;
  std::vector<StepTime> step_times_;
};

}  // namespace

SimulatedRun Simulate(uint64_t seed) { return Simulation(seed).Run(); }

}  // namespace muster::runtime
