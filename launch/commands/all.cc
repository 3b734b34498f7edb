#include "launch/commands/all.h"

#include "launch/commands/bench.h"
#include "launch/commands/check.h"
#include "launch/commands/ckpt.h"
#include "launch/commands/data.h"
#include "launch/commands/doctor.h"
#include "launch/commands/hang.h"
#include "launch/commands/launch.h"
#include "launch/commands/report.h"
#include "launch/commands/sample.h"
#include "launch/commands/train.h"

namespace muster::launch {

std::vector<std::unique_ptr<Command>> AllCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeTrain());
  commands.push_back(MakeLaunch());
  commands.push_back(MakeCheck());
  commands.push_back(MakeSample());
  commands.push_back(MakeData());
  commands.push_back(MakeCkpt());
  commands.push_back(MakeReport());
  commands.push_back(MakeHang());
  commands.push_back(MakeBench());
  commands.push_back(MakeDoctor());
  return commands;
}

}  // namespace muster::launch
