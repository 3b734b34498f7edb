#include "tests/support/runtime/log_builder.h"

#include <cstdlib>

namespace muster::runtime {
namespace {

// From a new process to its first step: 5 s launch and so on, `seconds` in all (at least 35).
LogBuilder& StartUp(int64_t seconds, LogBuilder& log) {
  return log.BeginAttempt()
      .In(State::kInitRuntime, 10)
      .In(State::kInitModel, 10)
      .In(State::kCheckpointLoad, 10)
      .In(State::kDataSeek, 5)
      .In(State::kWarmup, seconds - 35);
}

}  // namespace

RunLog LogOf(char name, int world_size) {
  LogBuilder log(world_size);
  log.BeginAttempt();
  switch (name) {
    case 'A':  // a clean run
      return log.Steps(0, 100).Ends(0).Build();
    case 'B':  // crash in the middle of step 49; resumed from 40, 505 s after the crash
      log.Steps(0, 49).Unfinished(49, 5).Dies(300);
      return StartUp(205, log).Steps(40, 100).Ends(0).Build();
    case 'C':  // crash just after the checkpoint at 40; resumed there, 500 s later
      log.Steps(0, 40).Dies(300);
      return StartUp(200, log).Steps(40, 100).Ends(0).Build();
    case 'D':  // every step waits 2 s for data
      return log.Steps(0, 100, 10, 2).Ends(0).Build();
    case 'E':  // checkpoints every 10; crash 60 s into the save at 60, so that 50 is the newest
      log.Steps(0, 60).In(State::kCheckpointStall, 60).Dies(200);
      return StartUp(140, log).Steps(50, 100).Ends(0).Build();
    case 'F':  // killed; nobody wrote an end
      return log.Steps(0, 60).Unfinished(60, 4).DiesUnwatched().Build();
    case 'G':  // all progress is lost: resumed at step 0, 500 s after the crash
      log.Steps(0, 50).Dies(300);
      return StartUp(200, log).Steps(0, 100).Ends(0).Build();
    case 'H':  // the second restart goes further back than the first; 200 s each
      log.Steps(0, 50).Dies(100);
      StartUp(100, log).Steps(40, 50).Dies(100);
      return StartUp(100, log).Steps(30, 100).Ends(0).Build();
    default:
      std::abort();
  }
}

}  // namespace muster::runtime
