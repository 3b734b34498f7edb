#include "tests/parity/layouts.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::runtime {
namespace {

constexpr char kSmall[] =
    "train.global_batch_sequences=16 train.sequence_length=32 schedule.microbatches=1 "
    "optimizer.learning_rate=1e-3 communication.bucket_megabytes=0.05";

}  // namespace

const ParityModel& ParityModelNamed(const std::string& name) {
  static const std::vector<ParityModel> models = {
      // Grouped-query attention of 4 heads and 2 key/value heads.
      {"llama", "tiny-dense.textproto", kSmall},
      // 4 key/value heads, and 8 layers for deep pipelines.
      {"llama8", "tiny-dense.textproto", absl::StrCat(kSmall, " model.kv_heads=4 model.layers=8")},
      {"gpt2", "tiny-dense.textproto",
       absl::StrCat(kSmall,
                    " model.kv_heads=4 model.norm=LAYER_NORM model.activation=GELU "
                    "model.position=LEARNED model.tied_embeddings=true model.bias=true")},
      {"moe", "tiny-moe.textproto", kSmall},
      // As DeepSeek-V3 balances: sigmoid scores, a bias instead of losses, a shared expert.
      {"moe-bias", "tiny-moe.textproto",
       absl::StrCat(kSmall,
                    " model.moe.score=SIGMOID model.moe.bias_update_rate=0.001 "
                    "model.moe.shared_experts=1 model.moe.first_dense_layers=1 "
                    "model.moe.aux_loss=0")},
      // Places for 1.25 times an even share of each sequence, and a loss that balances the batch.
      {"moe-capacity", "tiny-moe.textproto",
       absl::StrCat(kSmall, " model.moe.capacity_factor=1.25 model.moe.aux_level=BATCH")},
  };
  for (const ParityModel& model : models) {
    if (name == model.name) return model;
  }
  MUSTER_CHECK(false) << "no model " << name;
  return models.front();
}

const std::vector<Layout>& AllLayouts() {
  static const std::vector<Layout> layouts = {
      // Each axis alone.
      {"llama", 2, "mesh.dp=2"},
      {"llama", 4, "mesh.dp=4"},
      {"llama", 8, "mesh.dp=8"},
      {"llama", 2, "mesh.tp=2"},
      {"llama", 2, "mesh.tp=2 mesh.sequence_parallel=false"},
      {"llama8", 4, "mesh.tp=4"},
      {"llama", 2, "mesh.cp=2"},
      {"llama", 2, "mesh.cp=2 mesh.context_exchange=ALL_GATHER"},
      {"llama", 4, "mesh.cp=4"},
      {"llama", 8, "mesh.cp=8"},
      {"llama", 2, "mesh.pp=2 schedule.microbatches=4"},
      {"llama", 4, "mesh.pp=4 schedule.microbatches=8"},
      {"llama8", 8, "mesh.pp=8 schedule.microbatches=8"},
      {"gpt2", 2, "mesh.dp=2"},
      {"gpt2", 2, "mesh.tp=2"},
      {"gpt2", 4, "mesh.tp=4 mesh.sequence_parallel=false"},
      {"gpt2", 2, "mesh.cp=2"},
      {"gpt2", 2, "mesh.pp=2 schedule.microbatches=4"},
      {"moe", 2, "mesh.dp=2"},
      {"moe", 2, "mesh.dp=2 mesh.ep=2"},
      {"moe", 4, "mesh.dp=4 mesh.ep=2"},
      {"moe", 4, "mesh.dp=4 mesh.ep=4"},
      {"moe", 8, "mesh.dp=8 mesh.ep=8"},
      {"moe", 2, "mesh.pp=2 schedule.microbatches=4"},
      {"moe", 2, "mesh.tp=2"},
      {"moe", 2, "mesh.tp=2 mesh.etp=2"},
      {"moe", 2, "mesh.dp=2 mesh.etp=2"},
      {"moe", 2, "mesh.cp=2"},
      {"moe", 2, "mesh.tp=2 mesh.sequence_parallel=false"},
      {"moe-bias", 2, "mesh.dp=2 mesh.ep=2"},
      {"moe-bias", 2, "mesh.tp=2 mesh.ep=2"},
      {"moe-bias", 2, "mesh.cp=2 mesh.ep=2"},
      {"moe-bias", 2, "mesh.pp=2 schedule.microbatches=4"},
      {"moe-capacity", 2, "mesh.dp=2 mesh.ep=2"},
      {"moe-capacity", 2, "mesh.cp=2"},
      {"moe-capacity", 4, "mesh.cp=4 mesh.ep=2"},
      {"moe-capacity", 2, "mesh.tp=2"},
      {"moe-capacity", 2, "mesh.tp=2 schedule.microbatches=16"},
      // Pairs.
      {"llama", 4, "mesh.dp=2 mesh.tp=2"},
      {"llama", 4, "mesh.dp=2 mesh.tp=2 mesh.sequence_parallel=false"},
      {"llama", 4, "mesh.dp=2 mesh.cp=2"},
      {"llama", 4, "mesh.dp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 4, "mesh.tp=2 mesh.cp=2"},
      {"llama", 4, "mesh.tp=2 mesh.cp=2 mesh.context_exchange=ALL_GATHER"},
      {"llama", 4, "mesh.tp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 4, "mesh.cp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 8, "mesh.dp=4 mesh.tp=2"},
      {"llama", 8, "mesh.dp=4 mesh.cp=2"},
      {"llama", 8, "mesh.dp=2 mesh.pp=4 schedule.microbatches=4"},
      {"gpt2", 4, "mesh.dp=2 mesh.tp=2"},
      {"gpt2", 4, "mesh.tp=2 mesh.pp=2 schedule.microbatches=4"},
      {"gpt2", 4, "mesh.dp=2 mesh.pp=2 schedule.microbatches=4"},
      {"moe", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=2"},
      {"moe", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=4"},
      {"moe", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=2 mesh.etp=2"},
      {"moe", 4, "mesh.dp=4 mesh.ep=2 mesh.etp=2"},
      {"moe", 4, "mesh.dp=2 mesh.cp=2 mesh.ep=2"},
      {"moe", 4, "mesh.dp=2 mesh.cp=2 mesh.ep=4"},
      {"moe", 4, "mesh.dp=2 mesh.pp=2 mesh.ep=2 schedule.microbatches=4"},
      {"moe", 4, "mesh.tp=2 mesh.pp=2 mesh.ep=2 schedule.microbatches=4"},
      {"moe", 4, "mesh.cp=2 mesh.pp=2 mesh.ep=2 schedule.microbatches=4"},
      {"moe", 4, "mesh.tp=2 mesh.cp=2 mesh.ep=4"},
      {"moe-bias", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=4"},
      {"moe-bias", 4, "mesh.dp=2 mesh.pp=2 mesh.ep=2 schedule.microbatches=4"},
      {"moe-bias", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=4 mesh.sequence_parallel=false"},
      {"moe", 4, "mesh.tp=2 mesh.cp=2 mesh.ep=2 mesh.etp=2 mesh.sequence_parallel=false"},
      {"moe", 4, "mesh.dp=2 mesh.pp=2 mesh.etp=2 schedule.microbatches=4"},
      {"moe", 4, "mesh.tp=2 mesh.pp=2 mesh.etp=2 schedule.kind=zb_h1 schedule.microbatches=4"},
      {"moe-capacity", 4, "mesh.tp=2 mesh.cp=2 mesh.ep=4"},
      {"moe-capacity", 4, "mesh.cp=2 mesh.pp=2 schedule.microbatches=4"},
      // Triples and more.
      {"llama", 8, "mesh.dp=2 mesh.tp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 8, "mesh.tp=2 mesh.cp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 8, "mesh.dp=2 mesh.cp=2 mesh.pp=2 schedule.microbatches=4"},
      {"llama", 8, "mesh.dp=2 mesh.tp=2 mesh.cp=2"},
      {"gpt2", 8, "mesh.dp=2 mesh.tp=2 mesh.pp=2 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=4 mesh.pp=2 mesh.ep=2 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=4 mesh.pp=2 mesh.ep=4 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=4 mesh.tp=2 mesh.ep=8"},
      {"moe", 8, "mesh.dp=2 mesh.tp=2 mesh.pp=2 mesh.ep=2 mesh.etp=2 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=2 mesh.tp=2 mesh.pp=2 mesh.ep=4 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=2 mesh.cp=2 mesh.tp=2 mesh.ep=4"},
      {"moe", 8, "mesh.tp=2 mesh.cp=2 mesh.pp=2 mesh.ep=4 schedule.microbatches=4"},
      {"moe-bias", 8, "mesh.dp=2 mesh.tp=2 mesh.pp=2 mesh.ep=4 schedule.microbatches=4"},
      {"moe", 8, "mesh.tp=2 mesh.cp=2 mesh.pp=2 mesh.etp=4 schedule.microbatches=4"},
      {"moe-bias", 8, "mesh.dp=2 mesh.pp=4 mesh.etp=2 schedule.kind=zb_h1 schedule.microbatches=8"},
      {"moe-capacity", 8, "mesh.dp=2 mesh.tp=2 mesh.cp=2 mesh.ep=2 mesh.etp=2"},
      // Other orders of the axes.
      {"moe", 8,
       "mesh.dp=2 mesh.tp=2 mesh.pp=2 mesh.ep=4 schedule.microbatches=4 mesh.order=tp-pp-cp-dp"},
      {"moe-bias", 8,
       "mesh.dp=2 mesh.tp=2 mesh.cp=2 mesh.ep=2 mesh.etp=2 zero.level=3 mesh.order=dp-tp-cp-pp"},
      // ZeRO levels; level 1 is the default above.
      {"llama", 4, "mesh.dp=4 zero.level=0"},
      {"llama", 4, "mesh.dp=4 zero.level=2 schedule.microbatches=2"},
      {"llama", 4, "mesh.dp=4 zero.level=3 schedule.microbatches=2"},
      {"llama", 4, "mesh.dp=4 zero.level=1 zero.shard_ranks=2"},
      {"llama", 4, "mesh.dp=4 zero.level=3 zero.shard_ranks=2"},
      {"gpt2", 4, "mesh.dp=4 zero.level=3"},
      {"moe", 4, "mesh.dp=4 mesh.ep=2 zero.level=0"},
      {"moe", 4, "mesh.dp=4 mesh.ep=2 zero.level=2"},
      {"moe", 4, "mesh.dp=4 mesh.ep=2 zero.level=3"},
      {"llama", 4, "mesh.dp=2 mesh.tp=2 zero.level=2"},
      {"llama", 4, "mesh.dp=2 mesh.tp=2 zero.level=3"},
      {"llama", 4, "mesh.dp=2 mesh.cp=2 zero.level=3"},
      {"llama", 4,
       "mesh.dp=2 mesh.tp=2 mesh.sequence_parallel=false zero.level=2 schedule.microbatches=4"},
      {"gpt2", 2, "mesh.tp=2 mesh.sequence_parallel=false zero.level=3 schedule.microbatches=2"},
      {"llama", 4, "mesh.dp=2 mesh.pp=2 zero.level=2 schedule.microbatches=4"},
      {"llama", 4, "mesh.dp=2 mesh.pp=2 zero.level=3 schedule.microbatches=4"},
      {"moe", 8, "mesh.dp=4 mesh.pp=2 mesh.ep=2 zero.level=3 schedule.microbatches=4"},
      // Schedules.
      {"llama", 2,
       "mesh.pp=2 schedule.kind=interleaved_1f1b schedule.virtual_stages=2 "
       "schedule.microbatches=4"},
      {"llama", 2, "mesh.pp=2 schedule.kind=zb_h1 schedule.microbatches=4"},
      {"llama", 2, "mesh.pp=2 schedule.kind=zb_v schedule.microbatches=4"},
      {"llama", 2, "mesh.pp=2 schedule.kind=dualpipev schedule.microbatches=4"},
      {"llama8", 4,
       "mesh.pp=4 schedule.kind=interleaved_1f1b schedule.virtual_stages=2 "
       "schedule.microbatches=8"},
      {"llama8", 4, "mesh.pp=4 schedule.kind=zb_h1 schedule.microbatches=8"},
      {"llama8", 4, "mesh.pp=4 schedule.kind=zb_v schedule.microbatches=8"},
      {"llama8", 4, "mesh.pp=4 schedule.kind=dualpipev schedule.microbatches=8"},
      {"gpt2", 2, "mesh.pp=2 schedule.kind=zb_v schedule.microbatches=4"},
      {"moe", 4, "mesh.dp=2 mesh.pp=2 mesh.ep=2 schedule.kind=zb_h1 schedule.microbatches=4"},
      {"moe", 4, "mesh.dp=2 mesh.pp=2 mesh.ep=2 schedule.kind=dualpipev schedule.microbatches=4"},
      // Recomputation.
      {"llama", 2, "mesh.dp=2 recompute.block=true"},
      {"llama", 2, "mesh.tp=2 recompute.attention=true recompute.mlp=true"},
      {"llama", 2, "mesh.cp=2 recompute.block=true"},
      {"moe", 2, "mesh.dp=2 mesh.ep=2 recompute.moe=true recompute.norm=true"},
      {"moe", 4, "mesh.dp=2 mesh.pp=2 mesh.ep=2 recompute.block=true schedule.microbatches=4"},
      {"moe", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=2 recompute.block=true"},
      {"llama", 2, "mesh.pp=2 schedule.kind=zb_h1 schedule.microbatches=4 recompute.block=true"},
      {"moe", 4,
       "mesh.dp=2 mesh.pp=2 mesh.ep=2 schedule.kind=dualpipev schedule.microbatches=4 "
       "recompute.moe=true recompute.attention=true"},
      // Without overlap.
      {"moe", 4, "mesh.dp=4 mesh.ep=2 communication.overlap=false"},
      {"llama", 4, "mesh.dp=2 mesh.tp=2 communication.overlap=false"},
  };
  return layouts;
}

}  // namespace muster::runtime
