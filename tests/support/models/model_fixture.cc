#include "tests/support/models/model_fixture.h"

#include <cstring>

#include "parallel/cp/sequence_chunks.h"

namespace muster::models {

using kernels::DType;
using kernels::TensorView;

namespace {

kernels::Stream MakeStream(kernels::StreamMode mode) {
  auto stream = kernels::Stream::Create({}, mode, "compute");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

}  // namespace

ModelFixture::ModelFixture(const ModelConfig& config, const FixtureOptions& options)
    : options_(options), stream_(MakeStream(options.mode)) {
  parallel::World* world = options.world;
  if (world == nullptr) {
    alone_ = parallel::World::Alone();
    world = alone_.get();
  }
  auto made = parallel::Mesh::Create(*world, options.degrees, {});
  MUSTER_CHECK_OK(made.status());
  mesh = *std::move(made);
  parameters = std::make_unique<parallel::ParameterList>(*mesh);
  model = Gpt::Create(config, options.shape, *mesh, *parameters);
  // Small buckets, so that there are several.
  layout =
      parallel::PlanBuckets(*parameters, 1 << 14, kernels::AccumulatorDType(options.shape.dtype));
  storage = std::make_unique<parallel::BucketStorage>(layout, options.shape.dtype, plan_);
  model->PlanMemory(plan_);
  auto arena = kernels::Arena::Allocate(plan_, {});
  MUSTER_CHECK_OK(arena.status());
  arena_ = *std::move(arena);
  storage->Bind(*parameters);
  parallel::InitializeWeights(*parameters, options.seed, compute());
  model->Initialise(*parameters, hooks, compute());
  MakeBatch(config.vocab_size());
  Synchronize();
}

void ModelFixture::MakeBatch(int vocab_size) {
  const StageShape& shape = options_.shape;
  // S is of whole sequences, of which this rank may hold only some tokens.
  const int cp = options_.degrees.cp;
  const int64_t T = shape.tokens(), S = shape.sequence_length * cp;
  const int64_t rank_sequences = shape.num_microbatches * shape.sequences;
  const kernels::PhiloxKey key = kernels::MakePhiloxKey(1, "tokens");
  const auto token = [&](int64_t sequence, int64_t t) {
    const uint64_t index = static_cast<uint64_t>(sequence * (S + 1) + t);
    return static_cast<int>(kernels::Philox(key, index).v[0] % static_cast<uint32_t>(vocab_size));
  };
  const auto masked = [&](int64_t sequence, int64_t t) {
    return options_.masked_targets > 0 && (sequence * S + t) % options_.masked_targets == 0;
  };
  const int64_t global_sequences = rank_sequences * options_.degrees.dp;
  for (int64_t i = 0; i < global_sequences * S; ++i) {
    global_valid_tokens_ += !masked(i / S, i % S);
  }

  for (kernels::Tensor* tensor : {&tokens_, &targets_, &positions_}) {
    *tensor = kernels::MakeTensor(DType::kInt32, {shape.num_microbatches, T});
  }
  const int64_t first = mesh->coordinates().dp * rank_sequences;
  int64_t i = 0;
  for (int64_t sequence = first; sequence < first + rank_sequences; ++sequence) {
    for (const auto& [begin, length] : parallel::ContextRuns(S, cp, mesh->coordinates().cp)) {
      for (int64_t t = begin; t < begin + length; ++t, ++i) {
        kernels::SetValue(tokens_.view(), i, token(sequence, t));
        kernels::SetValue(targets_.view(), i, masked(sequence, t) ? -100 : token(sequence, t + 1));
        kernels::SetValue(positions_.view(), i, static_cast<double>(t));
      }
    }
  }
  for (int64_t m = 0; m < shape.num_microbatches; ++m) {
    const auto row = [&](const kernels::Tensor& tensor) {
      return tensor.view().Slice(0, m, m + 1).Reshape({T});
    };
    microbatches.push_back({row(tokens_), row(targets_), row(positions_)});
  }
}

void ModelFixture::Begin() {
  for (int bucket = 0; bucket < static_cast<int>(layout.buckets.size()); ++bucket) {
    kernels::FillZeroAsync(storage->gradients(bucket), compute());
  }
  model->BeginStep(microbatches, global_valid_tokens_, compute());
}

void ModelFixture::Forward(int microbatch) {
  MUSTER_CHECK_OK(model->Forward(0, microbatch, {}, {}, compute()));
}

void ModelFixture::Backward(int microbatch) {
  MUSTER_CHECK_OK(model->Backward(0, microbatch, {}, {}, compute()));
}

double ModelFixture::Step() {
  Begin();
  for (int m = 0; m < options_.shape.num_microbatches; ++m) {
    Forward(m);
    Backward(m);
  }
  Synchronize();
  const std::vector<double> losses = Losses();
  return losses[0] + losses[1] + losses[2];
}

void ModelFixture::Poison() {
  for (const kernels::ArenaPlan::Block& block : plan_.blocks()) {
    if (block.lifetime == kernels::Lifetime::kPersistent) continue;
    std::memset(block.bound->data, 0xff, static_cast<size_t>(block.bound->bytes()));
  }
}

parallel::ParameterId ModelFixture::Find(const std::string& global_name) const {
  for (int id = 0; id < parameters->size(); ++id) {
    if ((*parameters)[id].global_name == global_name) return id;
  }
  MUSTER_CHECK(false) << "no parameter " << global_name;
  return -1;
}

}  // namespace muster::models
