#include "launch/help.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/device/device.h"
#include "kernels/ops/attention_support.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

using Row = std::pair<std::string, std::string>;  // a name and what it means

constexpr size_t kColumns = 96;  // of the whole page

// `text` in lines of at most kColumns, all but the first indented; its own line ends are kept.
std::string Wrapped(const std::string& text, size_t indent) {
  std::string page;
  for (absl::string_view paragraph : absl::StrSplit(text, '\n')) {
    size_t column = indent;
    if (!page.empty()) absl::StrAppend(&page, "\n", std::string(indent, ' '));
    for (absl::string_view word : absl::StrSplit(paragraph, ' ')) {
      if (column > indent && column + 1 + word.size() > kColumns) {
        absl::StrAppend(&page, "\n", std::string(indent, ' '));
        column = indent;
      }
      absl::StrAppend(&page, column > indent ? " " : "", word);
      column += word.size() + (column > indent ? 1 : 0);
    }
  }
  return page;
}

// Two columns, indented by two; a name too long for its column gets a line of its own.
std::string Table(const std::vector<Row>& rows) {
  constexpr size_t kWidest = 26;
  size_t width = 0;
  for (const Row& row : rows) {
    if (row.first.size() <= kWidest) width = std::max(width, row.first.size());
  }
  std::string table;
  for (const auto& [name, meaning] : rows) {
    absl::StrAppend(&table, "  ", name);
    if (name.size() > width) {
      absl::StrAppend(&table, "\n", std::string(width + 4, ' '));
    } else {
      absl::StrAppend(&table, std::string(width - name.size() + 2, ' '));
    }
    absl::StrAppend(&table, Wrapped(meaning, width + 4), "\n");
  }
  return table;
}

std::vector<Row> CommandRows(const std::vector<CommandText>& commands) {
  std::vector<Row> rows;
  for (const CommandText& text : commands) rows.emplace_back(text.name, text.summary);
  return rows;
}

std::string NameAndType(const CLI::Option& option) {
  std::string name = absl::StrJoin(absl::StrSplit(option.get_name(false, true), ','), ", ");
  // Empty for flags. Behind a colon the library describes the range, which a refusal names anyway.
  const std::string type = option.get_type_name().substr(0, option.get_type_name().find(':'));
  if (!option.get_positional() && !type.empty()) absl::StrAppend(&name, " ", type);
  return name;
}

}  // namespace

std::string VersionText() {
  if (!kernels::kBuiltWithCuda) return "muster " MUSTER_VERSION " (CPU)";
  const std::string cudnn = kernels::CudnnVersion();
  return absl::StrCat("muster " MUSTER_VERSION " (CPU, CUDA, ",
                      cudnn.empty() ? "no cuDNN" : "cuDNN " + cudnn, ")");
}

std::string RootHelp(const std::vector<CommandText>& commands) {
  std::vector<Row> codes;
  for (const ExitCodeText& text : kExitCodeTexts) {
    codes.emplace_back(absl::StrCat(text.code), text.meaning);
  }
  return absl::StrCat(
      "muster trains transformer language models, dense and Mixture-of-Experts, on many ranks.\n\n"
      "Usage: muster COMMAND [OPTIONS]\n\nCommands:\n",
      Table(CommandRows(commands)), "\nOptions:\n",
      Table({{"-h, --help", "print this; after a command: its options and an example"},
             {"--version", "print version and backends of this build"}}),
      "\nExit codes:\n", Table(codes),
      "\nExample:\n"
      "  mpirun -np 4 muster train configs/jobs/tiny-moe.textproto --run runs/first\n");
}

std::string CommandHelp(const std::string& path, const CommandText& text, const CLI::App& app,
                        const std::vector<CommandText>& parts) {
  std::vector<Row> positionals, options;
  std::string usage = absl::StrCat("Usage: muster ", path);
  if (!parts.empty()) absl::StrAppend(&usage, " COMMAND");
  for (const CLI::Option* option : app.get_options()) {
    (option->get_positional() ? positionals : options)
        .emplace_back(NameAndType(*option), option->get_description());
    if (!option->get_positional()) continue;
    const std::string name = option->get_name() + (option->get_expected_max() > 1 ? "..." : "");
    absl::StrAppend(&usage, option->get_required() ? " " : " [", name,
                    option->get_required() ? "" : "]");
  }
  std::string help = absl::StrCat(text.summary, "\n");
  if (!text.details.empty()) absl::StrAppend(&help, Wrapped(text.details, 0), "\n");
  absl::StrAppend(&help, "\n", usage, " [OPTIONS]\n");
  if (!parts.empty()) absl::StrAppend(&help, "\nCommands:\n", Table(CommandRows(parts)));
  if (!positionals.empty()) absl::StrAppend(&help, "\nArguments:\n", Table(positionals));
  absl::StrAppend(&help, "\nOptions:\n", Table(options), "\nExample:\n  ", text.example, "\n");
  return help;
}

}  // namespace muster::launch
