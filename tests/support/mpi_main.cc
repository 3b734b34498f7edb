// main() of the tests under mpirun. Rank 0 prints what GoogleTest prints; the others print only
// failures. All ranks end with the worst exit code of any.
#include "tests/support/mpi_main.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

std::unique_ptr<World> test_world;

class FailurePrinter : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestStart(const testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s\n%s:%d: %s\n", rank_, test_.c_str(),
                 result.file_name() != nullptr ? result.file_name() : "", result.line_number(),
                 result.message());
  }

 private:
  int rank_;
  std::string test_;
};

}  // namespace

World& TestWorld() { return *test_world; }

std::unique_ptr<ProcessGroup> GroupOfAll(World& world, const std::string& name,
                                         kernels::Device device) {
  std::vector<int> ranks(static_cast<size_t>(world.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  auto group = world.NewGroup(name, ranks, kExposedDp, device);
  MUSTER_CHECK_OK(group.status());
  return *std::move(group);
}

kernels::Device TestGpu() { return {kernels::DeviceType::kCuda, test_world->local_rank()}; }

bool HasGpus() {
  return kernels::DeviceCount(kernels::DeviceType::kCuda) >= test_world->local_size();
}

int RunAll() {
  auto world = World::Create({.deadline = std::chrono::seconds(30)});
  MUSTER_CHECK_OK(world.status());
  test_world = *std::move(world);
  if (test_world->rank() > 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(test_world->rank()));
  }
  int worst = RUN_ALL_TESTS();
  auto codes = test_world->GatherText(std::to_string(worst));
  if (!codes.ok()) {
    std::fprintf(stderr, "%s\n", codes.status().ToString().c_str());
    test_world->Abort(1);
  }
  for (const std::string& code : *codes) worst = std::max(worst, std::stoi(code));
  test_world.reset();
  return worst;
}

}  // namespace muster::parallel

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  muster::kernels::PrepareProcess();
  return muster::parallel::RunAll();
}
