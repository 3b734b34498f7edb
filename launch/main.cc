#include <iostream>
#include <string>
#include <vector>

#include "kernels/device/device.h"
#include "launch/command_line.h"
#include "launch/commands/all.h"

int main(int argc, char** argv) {
  muster::kernels::PrepareProcess();
  return muster::launch::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc),
                                        muster::launch::AllCommands(), {std::cout, std::cerr});
}
