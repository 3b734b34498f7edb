#pragma once
// A thread of each rank that turns a failed collective into evidence. The rank on which it failed
// writes its collective log and asks all others for theirs; every listener answers, whatever its
// rank is doing, unless the process is stopped or gone. Then one rank reads all logs and explains
// them (parallel/comm/hang_report.h) and every rank logs the explanation, or where it is. From
// failure to explanation: kAnswerTime at most, plus the writing of files.
//
// It costs a look for messages every kLook.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/collective_log.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_exchange.h"

namespace muster::parallel {

class HangListener {
 public:
  static constexpr std::chrono::milliseconds kLook{20};
  // How long a rank may take to answer before it counts as silent.
  static constexpr std::chrono::milliseconds kAnswerTime{500};
  // How long the rank's own thread may take to ask for the evidence, and end the job, before the
  // listener ends it: that thread may wait in something without a deadline.
  static constexpr std::chrono::milliseconds kGrace{300};

  struct Options {
    MpiHandle communicator = 0;  // of the world; its tags from kRequestTag on are the listener's
    int rank = 0, world_size = 1;
    std::string host;
    const SharedDeadline* deadline = nullptr;  // as the record shall have it
    std::string directory;
    CollectiveLog* log = nullptr;
    const std::atomic<bool>* world_failed = nullptr;
    std::function<void()> abort;
  };
  static constexpr int kRequestTag = 100, kAnswerTag = 101;

  explicit HangListener(Options options);
  ~HangListener();
  HangListener(const HangListener&) = delete;
  HangListener& operator=(const HangListener&) = delete;

  // Empty if no collective failed on this rank. Else blocks until the logs are there, and returns
  // the explanation on the rank that made it, its path on the others.
  std::string Evidence();

 private:
  void Run();
  void Answer();
  void WriteOwn();
  void CollectAnswers();
  std::string Explain();
  std::string ReportPath() const { return options_.directory + "/report.txt"; }

  const Options options_;
  std::vector<bool> answered_;  // by world rank
  bool wrote_ = false, gathered_ = false, asked_ = false, stopping_ = false;
  std::mutex mutex_;  // guards evidence_ and the flags after wrote_
  std::condition_variable changed_;
  std::string evidence_;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace muster::parallel
