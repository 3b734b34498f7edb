#include "parallel/mesh/parameter.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "tests/support/kernels/host_tensor.h"

namespace muster::parallel {
namespace {

using kernels::DType;

std::unique_ptr<Mesh> MeshOfOne(World& world) {
  auto mesh = Mesh::Create(world, {.dp = 1}, kernels::Device{});
  MUSTER_CHECK_OK(mesh.status());
  return *std::move(mesh);
}

TEST(ParameterListDeathTest, RefusesAnotherParameterOfTheSameName) {
  const auto world = World::Alone();
  const auto mesh = MeshOfOne(*world);
  ParameterList list(*mesh);
  EXPECT_EQ(list.Add("embedding.weight", {8, 4}, {}, {}), 0);
  EXPECT_EQ(list.Add("head.weight", {4, 8}, {}, {}), 1);
  EXPECT_DEATH(list.Add("embedding.weight", {8, 4}, {}, {}), "two parameters named");
}

TEST(InitializeWeights, DependsOnSeedNameAndRuleOnly) {
  const auto world = World::Alone();
  const auto mesh = MeshOfOne(*world);
  auto stream = kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
  const auto values_of = [&](std::vector<std::string> order, uint64_t seed) {
    ParameterList list(*mesh);
    std::vector<kernels::Tensor> memory;
    for (const std::string& name : order) {
      const auto kind = name == "gain"   ? InitRule::Kind::kOnes
                        : name == "bias" ? InitRule::Kind::kZeros
                                         : InitRule::Kind::kNormal;
      const ParameterId id = list.Add(name, {16, 3}, {}, {kind, 0.5f});
      memory.push_back(kernels::RandomTensor(DType::kFloat32, {16, 3}, "before"));
      list[id].weight = memory.back().view();
    }
    InitializeWeights(list, seed, stream->view());
    std::map<std::string, std::vector<double>> values;
    for (const Parameter& parameter : list) {
      values[parameter.global_name] = kernels::Values(parameter.weight);
    }
    return values;
  };
  auto first = values_of({"a", "b", "gain", "bias"}, 1),
       second = values_of({"bias", "b", "gain", "a"}, 1);
  EXPECT_EQ(first, second);
  EXPECT_EQ(first["gain"], std::vector<double>(48, 1.0));
  EXPECT_EQ(first["bias"], std::vector<double>(48, 0.0));
  EXPECT_NE(first["a"], first["b"]);
  EXPECT_NE(first["a"], values_of({"a"}, 2)["a"]);
  double sum_of_squares = 0;
  for (const double value : first["a"]) sum_of_squares += value * value;
  EXPECT_NEAR(sum_of_squares / 48, 0.25, 0.12);
}

}  // namespace
}  // namespace muster::parallel
