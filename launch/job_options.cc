#include "launch/job_options.h"

#include <CLI/CLI.hpp>

namespace muster::launch {

void AddJobOptions(CLI::App& app, JobOptions* options) {
  app.add_option("CONFIG", options->config, "a job in protobuf text format (see configs/jobs)")
      ->required();
  app.add_option("--set", options->overrides, "override a field of the config; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each, or it would swallow CONFIG
}

}  // namespace muster::launch
