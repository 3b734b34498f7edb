#pragma once
// Judges a running attempt by what its ranks say, and by their silence. Pure but for the clock that
// it is handed; a supervisor feeds it and asks.
//
//   crash      a connection closed without a goodbye: at once
//   error      a goodbye with an exit code that tells of an error: at once
//   hang       a rank silent for D, or no rank of the job one step further for D, the deadline of a
//              step (runtime/fault/deadlines.h); other phases than steps have their own
//   host lost  all ranks of a host (one of several, or not this one) silent for the least of all
//              deadlines, whatever a step takes, since heartbeats need no step; or their
//              connections closed together
//   hang       some ranks have left, the others or the starter do not end
//   launch     not all ranks have spoken by the start deadline
//   straggler  see runtime/fault/straggler.h; the job goes on
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/fault/deadlines.h"
#include "runtime/fault/heartbeat_server.h"
#include "runtime/fault/straggler.h"
#include "runtime/goodput/failure.h"

namespace muster::runtime {

struct DetectorOptions {
  Deadlines deadlines;
  double end_deadline_seconds = 60;  // from the first goodbye to the starter's end
  StragglerOptions straggler;
  // By rank, its host as the supervisor placed it; empty: what ranks call their host is taken.
  std::vector<std::string> host_of_rank;
  uint64_t process_space = 0;  // of the supervisor (see Frame): a host without it may be lost alone
};

class Detector {
 public:
  Detector(const DetectorOptions& options, int world_size, int64_t start_ns);

  void See(const RankEvent& event);
  // The starter ended; `status` is its exit code, 128 + signal if a signal ended it.
  void SeeExit(int status, int64_t now_ns);

  // The failure that ends the attempt, or kNone when all ranks have left well and the starter has
  // ended; nullopt while it runs. Once it is not nullopt it stays.
  const std::optional<Failure>& Check(int64_t now_ns);
  // To be called some moments after a crash, before anybody ends the other ranks: if all
  // connections of its host, of several ranks, have closed meanwhile, and those of another host
  // stay, it is the host that is lost.
  void JudgeHostOfCrash(int64_t now_ns);
  // A rank that has just been found to be slow; each is told once.
  std::optional<Failure> NewStraggler(int64_t now_ns);

  int64_t deadline_ns() const;  // D
  bool all_spoke() const;
  int64_t best_step() const { return best_step_; }    // the highest that a rank has ended; 0: none
  int64_t first_step() const { return first_step_; }  // that the attempt began; 0: not known
  int64_t last_news_ns() const;                       // when a rank last entered a state or a step
  // The host that all of these ranks are on; empty: there is no such.
  std::vector<std::string> HostOf(const std::vector<int>& ranks) const;

 private:
  struct Rank {
    bool spoke = false, left = false;
    int64_t lost_ns = 0;  // when its connection closed without a goodbye; 0: it did not
    int64_t heard_ns = 0, changed_ns = 0;  // the last frame; the last that told something new
    Frame last;
  };
  void SeeFrame(const RankEvent& event);
  void NoteStep(const Frame& before, const Frame& frame);
  std::optional<Failure> Silence(int64_t now_ns) const;
  std::optional<Failure> Standstill(int64_t now_ns) const;
  std::optional<Failure> Ending(int64_t now_ns) const;
  Failure Make(FailureKind kind, std::vector<int> ranks, int64_t happened_ns, int64_t now_ns,
               std::string evidence) const;
  const Rank& At(int rank) const { return ranks_[static_cast<size_t>(rank)]; }
  Failure NeverSpoke(const std::vector<int>& missing, int64_t now_ns) const;
  Failure SilentRanks(const std::vector<int>& silent, int64_t now_ns) const;
  std::vector<int> SilentFor(int64_t longer_than_ns, int64_t now_ns) const;
  const std::string& HostOf(int rank) const;
  std::map<std::string, std::vector<int>> RanksByHost() const;
  std::optional<Failure> SilentHosts(int64_t longer_than_ns, int64_t now_ns) const;
  std::string Said(int rank, int64_t now_ns) const;
  std::string SaidByAll(const std::vector<int>& ranks, int64_t now_ns) const;

  const DetectorOptions options_;
  const int64_t start_ns_;
  std::vector<Rank> ranks_;
  StepTimes step_times_;
  StragglerFinder straggler_;
  int64_t steps_noted_ = 0;  // of the attempt, in step_times_
  int64_t best_step_ = 0, first_step_ = 0;
  std::optional<Failure> failure_;
};

}  // namespace muster::runtime
