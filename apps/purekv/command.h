#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace purekv::app {

/// One subcommand. Positional arguments do not pass through CLI11, which reads "[a,b]" and "{}" as
/// lists: a question is any text.
class Command {
 public:
  Command(const std::string& name, const std::string& arguments, const std::string& about);
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  /// Parses and runs; `arguments` without the program's and the command's name. What they leave out, the
  /// environment and then the file of --config may give; `known` holds the flags of every command. Throws Error.
  void start(const std::vector<std::string>& arguments, const std::set<std::string>& known);

  [[nodiscard]] const CLI::App& app() const { return app_; }
  [[nodiscard]] const std::string& about() const { return about_; }
  /// Words that complete the first positional argument; empty: files.
  [[nodiscard]] virtual std::vector<std::string> first_words() const { return {}; }

 protected:
  virtual void run(const std::vector<std::string>& positionals) = 0;
  CLI::App app_;

 private:
  void parse(std::vector<std::string> flags, const std::set<std::string>& known);

  std::string about_;
  std::string config_;
};

using Commands = std::vector<std::unique_ptr<Command>>;

std::unique_ptr<Command> make_ask_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_tokenize_command();
std::unique_ptr<Command> make_bench_command();
std::unique_ptr<Command> make_eval_command();
/// Prints a completion script over all of `commands`.
std::unique_ptr<Command> make_completion_command(const Commands& commands);

}  // namespace purekv::app
