#include "kernels/device/cpu_threads.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>

namespace muster::kernels {

int CpuThreadsFor(int num_processes) {
  if (const char* wish = std::getenv("OMP_NUM_THREADS"); wish != nullptr && *wish != '\0') {
    return omp_get_max_threads();
  }
  cpu_set_t usable;
  CPU_ZERO(&usable);
  const int cores = sched_getaffinity(0, sizeof(usable), &usable) == 0 ? CPU_COUNT(&usable) : 1;
  return std::max(1, cores / std::max(1, num_processes));
}

void SetCpuThreads(int num_threads) { omp_set_num_threads(num_threads); }

}  // namespace muster::kernels
