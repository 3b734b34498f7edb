#include <sys/stat.h>

#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "kernels/device/device.h"
#include "launch/command_line.h"
#include "launch/commands/all.h"

int main(int argc, char** argv) {
  umask(umask(077) | 077);        // what a run leaves is its user's alone
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files fails a write, as a full disk does
  muster::kernels::PrepareProcess();
  return muster::launch::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc),
                                        muster::launch::AllCommands(), {std::cout, std::cerr});
}
