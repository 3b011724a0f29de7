// purekv: the command line program. Each command is a file of its own; this one only chooses.

#include <set>
#include <string>
#include <vector>

#include "command.h"
#include "errors.h"
#include "interrupt.h"
#include "output.h"

namespace purekv::app {
namespace {

Commands make_commands() {
  Commands commands;
  commands.push_back(make_ask_command());
  commands.push_back(make_inspect_command());
  commands.push_back(make_tokenize_command());
  commands.push_back(make_bench_command());
  commands.push_back(make_eval_command());
  commands.push_back(make_completion_command(commands));
  return commands;
}

/// The flags of all commands: what a configuration file may name.
std::set<std::string> all_flags(const Commands& commands) {
  std::set<std::string> flags;
  for (const auto& command : commands)
    for (const CLI::Option* option : command->app().get_options())
      for (const std::string& name : option->get_lnames()) flags.insert("--" + name);
  return flags;
}

std::string help(const Commands& commands) {
  std::string text =
      "purekv: questions about video on a fraction of the KV-cache memory\n\n"
      "Usage: purekv COMMAND [FLAGS] [ARGUMENTS]\n\nCommands:\n";
  for (const auto& command : commands)
    text += fmt::format("  {:<12}{}\n", command->app().get_name().substr(7), command->about());
  return text +
         "\nFlags:\n"
         "  -h, --help  print this and exit; after a command: its flags, arguments and defaults\n"
         "  --version   print the version and exit\n\n"
         "Example:\n"
         "  purekv ask clip.mp4 \"What happens?\" --budget 20% --model DIR\n\n"
         "Every flag is also a variable (PUREKV_BUDGET, PUREKV_TOP_K) and a line of the TOML file that --config or\n"
         "PUREKV_CONFIG names (budget = \"10%\"); a flag wins over a variable, a variable over the file. Without a\n"
         "model the demo model answers.\n"
         "Exit codes: 0 done, 1 a bug, 2 usage, 3 input, 4 resources, 130 interrupted.\n";
}

void dispatch(const std::vector<std::string>& arguments) {
  const Commands commands = make_commands();
  if (arguments.empty()) fail(ErrorKind::kUsage, "no command given; see purekv --help");
  const std::string& first = arguments.front();
  if (first == "--help" || first == "-h") return write_out(help(commands));
  if (first == "--version") return write_out("purekv " PUREKV_VERSION "\n");
  for (const auto& command : commands)
    if (command->app().get_name() == "purekv " + first)
      return command->start({arguments.begin() + 1, arguments.end()}, all_flags(commands));
  fail(ErrorKind::kUsage, "unknown command \"{}\"; see purekv --help", first);
}

}  // namespace
}  // namespace purekv::app

int main(int argc, char** argv) {
  using namespace purekv::app;
  try {
    claim_standard_streams();
    install_interrupt_handler();
    // argc is 0 where a caller passes an empty argument vector.
    dispatch({argv + (argc > 0 ? 1 : 0), argv + argc});
    close_out();
    return 0;
  } catch (...) {
    return report_exception();
  }
}
