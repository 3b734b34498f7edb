#pragma once
// The words of --help. Written here, not by the parsing library, so that they stay the same when it
// changes; tests/golden/help.txt freezes them.
#include <string>
#include <vector>

#include "launch/command.h"

namespace muster::launch {

// "muster 0.1.0 (CPU)", "muster 0.1.0 (CPU, CUDA, cuDNN 9.19.0)": version and backends of this
// build.
std::string VersionText();

// muster --help: the commands and the exit codes.
std::string RootHelp(const std::vector<CommandText>& commands);

// muster <path> --help, with path "data prepare": usage, positionals and options as declared in
// `app`, its parts, and an example.
std::string CommandHelp(const std::string& path, const CommandText& text, const CLI::App& app,
                        const std::vector<CommandText>& parts);

}  // namespace muster::launch
