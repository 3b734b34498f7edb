#pragma once
// What processes of this host are doing, asked from outside, since they may be stopped.
#include <sys/types.h>

#include <string>
#include <vector>

namespace muster::launch {

// As /proc tells it: 'R' runs, 'S' sleeps, 'D' waits for a device, 'T' is stopped, 'Z' is dead;
// 0: there is no such process.
char StateOfProcess(pid_t pid);

struct StackFile {
  pid_t pid = 0;
  std::string path;
};

// Writes the stacks of all threads of these processes to files, all at once, by eu-stack or gdb,
// whichever is on the PATH, and waits until they are there, at most `limit_ms`. Each process stands
// still meanwhile. Returns the tool's name; empty if there is none. A process that may not be
// traced gets a file that says so.
std::string SaveStacks(const std::vector<StackFile>& wanted, int limit_ms);

}  // namespace muster::launch
