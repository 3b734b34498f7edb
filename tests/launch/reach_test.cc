#include "launch/reach.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace muster::launch {
namespace {

std::string OwnName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

TEST(Reach, LoopbackReachesThisHostByAnyOfItsNames) {
  std::vector<HostSlots> own = {{"localhost", 2}, {"127.0.0.1", 1}, {OwnName(), 4}};
  for (const std::string& address : OwnAddresses()) own.push_back({address, 1});
  ASSERT_GE(own.size(), 4u);
  EXPECT_EQ(own[3].name, "127.0.0.1");
  EXPECT_TRUE(CheckReach(own, "127.0.0.1").ok()) << CheckReach(own, "127.0.0.1");
}

TEST(Reach, AnotherHostBehindLoopbackIsRefusedWithWhatToDo) {
  for (const char* interface : {"127.0.0.1", "127.1.2.3", "0.0.0.0"}) {
    const absl::Status status = CheckReach({{OwnName(), 2}, {"elsewhere", 2}}, interface);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    for (const std::string part : {"elsewhere", interface, "--interface"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << part << " in: " << status;
    }
    for (const std::string& address : OwnAddresses()) {
      EXPECT_EQ(status.message().find(address) != std::string::npos,
                address == interface || !address.starts_with("127."))
          << address << " in: " << status;
    }
  }
}

TEST(Reach, AnAddressThatOthersReachIsTakenAtItsWord) {
  EXPECT_TRUE(CheckReach({{"elsewhere", 2}}, "10.1.2.3").ok());
}

}  // namespace
}  // namespace muster::launch
