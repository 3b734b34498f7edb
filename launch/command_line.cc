#include "launch/command_line.h"

#include <CLI/CLI.hpp>
#include <exception>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "launch/exit_codes.h"
#include "launch/help.h"
#include "runtime/job/nearest_name.h"

namespace muster::launch {
namespace {

// A command together with the parser of its options and its parts.
struct Node {
  std::string path;  // "data prepare"
  std::unique_ptr<Command> command;
  CLI::App* app = nullptr;  // owned by the root's
  std::vector<Node> parts;
};

Node Declare(const std::string& prefix, std::unique_ptr<Command> command, CLI::App& parent) {
  const CommandText text = command->text();
  Node node{absl::StrCat(prefix, text.name),
            std::move(command),
            parent.add_subcommand(text.name, text.summary),
            {}};
  node.app->set_help_flag("-h,--help", "print this");
  node.command->Declare(*node.app);
  for (std::unique_ptr<Command>& part : node.command->Parts()) {
    node.parts.push_back(Declare(node.path + " ", std::move(part), *node.app));
  }
  return node;
}

// The innermost command that the line names; null if it names none.
const Node* Selected(const std::vector<Node>& nodes) {
  for (const Node& node : nodes) {
    if (!node.app->parsed()) continue;
    const Node* part = Selected(node.parts);
    return part == nullptr ? &node : part;
  }
  return nullptr;
}

std::vector<CommandText> Texts(const std::vector<Node>& nodes) {
  std::vector<CommandText> texts;
  for (const Node& node : nodes) texts.push_back(node.command->text());
  return texts;
}

class Line {
 public:
  Line(std::vector<std::unique_ptr<Command>> commands, Console console) : console_(console) {
    root_.set_help_flag("-h,--help");
    root_.add_flag("--version", version_);
    for (std::unique_ptr<Command>& command : commands) {
      nodes_.push_back(Declare("", std::move(command), root_));
    }
  }

  int Run(const std::vector<std::string>& arguments) {
    std::string problem;
    bool help = false;
    try {
      // The library reads from the back.
      root_.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::CallForHelp&) {
      help = true;
    } catch (const CLI::ParseError& error) {
      problem = error.what();
    }
    const Node* selected = Selected(nodes_);
    if (help) return PrintHelp(selected);
    const std::string unknown = DescribeUnknown(selected);
    if (!unknown.empty()) return Refuse(selected, unknown);
    if (!problem.empty()) return Refuse(selected, problem);
    if (version_) {
      console_.out << VersionText() << "\n";
      return kExitDone;
    }
    if (selected == nullptr) return Refuse(selected, "no command given");
    if (!selected->parts.empty()) return Refuse(selected, "no command given after it");
    return selected->command->Run(console_);
  }

 private:
  int PrintHelp(const Node* node) {
    console_.out << (node == nullptr ? RootHelp(Texts(nodes_))
                                     : CommandHelp(node->path, node->command->text(), *node->app,
                                                   Texts(node->parts)));
    return kExitDone;
  }

  int Refuse(const Node* node, const std::string& problem) {
    const std::string name = node == nullptr ? "muster" : "muster " + node->path;
    console_.err << name << ": " << problem << "\nSee '" << name << " --help'.\n";
    return kExitUsage;
  }

  // The first argument that nothing declares: flags first, since what follows an unknown flag may
  // be its value. Empty if there is none.
  std::string DescribeUnknown(const Node* selected) const {
    const std::vector<std::string> rest = root_.remaining(true);
    const CLI::App& app = selected == nullptr ? root_ : *selected->app;
    for (const std::string& argument : rest) {
      if (argument.size() < 2 || argument[0] != '-') continue;
      const std::string flag = argument.substr(0, argument.find('='));
      std::vector<std::string> flags;
      for (const CLI::Option* option : app.get_options()) {
        for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
      }
      return absl::StrCat("unknown option '", flag, "'", runtime::DidYouMean(flag, flags));
    }
    if (rest.empty()) return "";
    const std::vector<Node>& parts = selected == nullptr ? nodes_ : selected->parts;
    if (parts.empty()) return absl::StrCat("one argument too many: '", rest[0], "'");
    std::vector<std::string> names;
    for (const CommandText& text : Texts(parts)) names.push_back(text.name);
    return absl::StrCat("unknown command '", rest[0], "'", runtime::DidYouMean(rest[0], names));
  }

  Console console_;
  CLI::App root_;
  std::vector<Node> nodes_;
  bool version_ = false;
};

}  // namespace

int RunCommandLine(const std::vector<std::string>& arguments,
                   std::vector<std::unique_ptr<Command>> commands, Console console) {
  try {
    return Line(std::move(commands), console).Run(arguments);
  } catch (const std::exception& error) {
    console.err << "muster: unexpected: " << error.what() << "\n";
    return kExitFailure;
  }
}

}  // namespace muster::launch
