#include "launch/job_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

namespace muster::launch {

void AddJobOptions(CLI::App& app, JobOptions* options) {
  app.add_option("CONFIG", options->config, "a job in protobuf text format (see configs/jobs)")
      ->required();
  app.add_option("--set", options->overrides, "override a field of the config; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each, or it would swallow CONFIG
}

void AddResumeOption(CLI::App& app, std::string* resume) {
  app.add_option("--resume", *resume,
                 "auto: a run that is there goes on from its newest good checkpoint; never: it is "
                 "refused; a run directory or a checkpoint: a new run begins from its state")
      ->type_name("auto|never|PATH")
      ->capture_default_str();
}

namespace {

parallel::NcclOptions::CtaPolicy PolicyOf(runtime::CtaPolicy policy) {
  using CtaPolicy = parallel::NcclOptions::CtaPolicy;
  switch (policy) {
    case runtime::DEFAULT:
      return CtaPolicy::kDefault;
    case runtime::EFFICIENCY:
      return CtaPolicy::kEfficiency;
    case runtime::ZERO:
      return CtaPolicy::kZero;
  }
  return CtaPolicy::kDefault;
}

}  // namespace

parallel::WorldOptions WorldOptionsOf(const runtime::Communication& communication) {
  const runtime::NcclConfig& nccl = communication.nccl();
  return {.deadline = std::chrono::milliseconds(
              static_cast<int64_t>(1e3 * std::max(communication.deadline_seconds(),
                                                  communication.start_deadline_seconds()))),
          .background_deadline = std::chrono::milliseconds(
              static_cast<int64_t>(1e3 * communication.save_deadline_seconds())),
          .injected_link = {.latency_us = communication.test_link_latency_us(),
                            .gigabytes_per_second = communication.test_link_gigabytes_per_second()},
          .nccl = {.min_ctas = nccl.min_ctas(),
                   .max_ctas = nccl.max_ctas(),
                   .overlapped_max_ctas = nccl.overlapped_max_ctas(),
                   .cga_cluster_size = nccl.cga_cluster_size(),
                   .cta_policy = PolicyOf(nccl.cta_policy()),
                   .nvls = nccl.nvls(),
                   .sums_in_rank_order = nccl.sums_in_rank_order()}};
}

}  // namespace muster::launch
