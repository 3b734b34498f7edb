#pragma once
// How many threads the CPU operators of this process use (OpenMP's, which oneDNN shares).

namespace muster::kernels {

// Cores of this machine divided among `num_processes` that share it, at least 1. What the user set
// in OMP_NUM_THREADS wins.
int CpuThreadsFor(int num_processes);

// For operators run by the calling thread, and by the queue streams that it makes from now on.
void SetCpuThreads(int num_threads);

}  // namespace muster::kernels
