#include <algorithm>

#include "command.h"
#include "errors.h"
#include "output.h"

namespace purekv::app {
namespace {

std::string short_name(const Command& command) {
  return command.app().get_name().substr(std::string("purekv ").size());
}

/// Words that a flag takes, from "a|b|c"; a value's name in capitals ("DIR", "20%|N") gives none.
std::vector<std::string> value_words(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  std::vector<std::string> found;
  if (option.get_expected_max() == 0 || type.find('|') == std::string::npos || type.find('%') != std::string::npos)
    return found;
  return CLI::detail::split(type, '|');
}

std::vector<const CLI::Option*> options_of(const Command& command) {
  return command.app().get_options([](const CLI::Option* option) { return !option->get_lnames().empty(); });
}

std::string flag_of(const CLI::Option& option) { return "--" + option.get_lnames().front(); }

std::string join(const std::vector<std::string>& words) { return CLI::detail::join(words, " "); }

std::string bash_script(const Commands& commands) {
  std::vector<std::string> names;
  std::string flags;
  std::string values;
  for (const auto& command : commands) {
    names.push_back(short_name(*command));
    std::vector<std::string> all = command->first_words();
    for (const CLI::Option* option : options_of(*command)) {
      all.push_back(flag_of(*option));
      if (const auto words = value_words(*option); !words.empty())
        values += fmt::format("    {}:{}) words=\"{}\" ;;\n", names.back(), flag_of(*option), join(words));
    }
    flags += fmt::format("    {}) words=\"{}\" ;;\n", names.back(), join(all));
  }
  return fmt::format(R"(# purekv completion: source <(purekv completion bash)
_purekv() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{} --help --version" -- "$cur"))
    return
  fi
  case "$command:$prev" in
{}  esac
  if [ -n "$words" ]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    return
  fi
  case "$command" in
{}  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _purekv purekv
)",
                     join(names), values, flags);
}

/// Single quotes of a shell word; `[`, `]` and `:` too where zsh's _arguments would read them.
std::string quoted(const std::string& text, bool zsh) {
  std::string out;
  for (const char c : text) {
    if (c == '\'')
      out += zsh ? "'\\''" : "\\'";
    else if (zsh && (c == '[' || c == ']' || c == ':'))
      out += std::string("\\") + c;
    else
      out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string zsh_script(const Commands& commands) {
  std::string text =
      "#compdef purekv\n# purekv completion: source <(purekv completion zsh)\n_purekv() {\n"
      "  local -a commands\n  commands=(\n";
  std::string cases;
  for (const auto& command : commands) {
    text += fmt::format("    '{}:{}'\n", short_name(*command), quoted(command->about(), true));
    cases += fmt::format("    {})\n      _arguments \\\n", short_name(*command));
    for (const CLI::Option* option : options_of(*command)) {
      const auto words = value_words(*option);
      const std::string value = option->get_expected_max() == 0 ? ""
                                : words.empty() ? fmt::format(":{}:_files", quoted(option->get_type_name(), true))
                                                : fmt::format(":value:({})", join(words));
      cases += fmt::format("        '{}[{}]{}' \\\n", flag_of(*option), quoted(option->get_description(), true), value);
    }
    const auto words = command->first_words();
    cases += fmt::format("        '*:argument:{}'\n      ;;\n", words.empty() ? "_files" : "(" + join(words) + ")");
  }
  return text +
         "  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n"
         "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n" +
         cases + "  esac\n}\ncompdef _purekv purekv\n";
}

std::string fish_script(const Commands& commands) {
  std::string text = "# purekv completion: purekv completion fish | source\n";
  for (const auto& command : commands) {
    const std::string name = short_name(*command);
    text += fmt::format("complete -c purekv -n __fish_use_subcommand -f -a {} -d '{}'\n", name,
                        quoted(command->about(), false));
    const std::string condition = fmt::format("complete -c purekv -n '__fish_seen_subcommand_from {}'", name);
    if (const auto words = command->first_words(); !words.empty())
      text += fmt::format("{} -f -a '{}'\n", condition, join(words));
    for (const CLI::Option* option : options_of(*command)) {
      const auto words = value_words(*option);
      const std::string value = option->get_expected_max() == 0 ? ""
                                : words.empty()                 ? " -r"
                                                                : fmt::format(" -x -a '{}'", join(words));
      text += fmt::format("{} -l {}{} -d '{}'\n", condition, option->get_lnames().front(), value,
                          quoted(option->get_description(), false));
    }
  }
  return text;
}

class CompletionCommand : public Command {
 public:
  explicit CompletionCommand(const Commands& commands)
      : Command("completion", "bash|zsh|fish",
                "print a completion script for a shell\n\n"
                "bash: source <(purekv completion bash)\nzsh:  source <(purekv completion zsh)\n"
                "fish: purekv completion fish | source"),
        commands_(commands) {}

  [[nodiscard]] std::vector<std::string> first_words() const override { return {"bash", "zsh", "fish"}; }

 private:
  void run(const std::vector<std::string>& positionals) override {
    const std::string shell = positionals.size() == 1 ? positionals.front() : "";
    if (shell == "bash") return write_out(bash_script(commands_));
    if (shell == "zsh") return write_out(zsh_script(commands_));
    if (shell == "fish") return write_out(fish_script(commands_));
    fail(ErrorKind::kUsage, "the shell is \"{}\"; give one of bash|zsh|fish", CLI::detail::join(positionals, " "));
  }

  const Commands& commands_;
};

}  // namespace

std::unique_ptr<Command> make_completion_command(const Commands& commands) {
  return std::make_unique<CompletionCommand>(commands);
}

}  // namespace purekv::app
