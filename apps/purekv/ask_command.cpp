#include <filesystem>
#include <fstream>
#include <limits>
#include <utility>

#include "command.h"
#include "errors.h"
#include "flag_binding.h"
#include "flags.h"
#include "interrupt.h"
#include "model_path.h"
#include "output.h"
#include "progress.h"
#include "report.h"
#include "settings_json.h"

namespace purekv::app {
namespace {

constexpr std::size_t kMostQuestion = 1U << 20U;

/// The last positional; "-" is standard input less one newline at its end.
std::string read_question(const std::string& argument) {
  std::string question = argument;
  if (argument == "-") {
    question = read_input("the question on standard input", kMostQuestion + 1);
    if (!question.empty() && question.back() == '\n') question.pop_back();
  }
  if (question.empty()) fail(ErrorKind::kInput, "the question is empty; write one, or - to read standard input");
  check_text("the question", question);
  return question;
}

/// A JSON array of token ids in place of a question: what another tokenizer made of the whole prompt.
std::vector<std::int32_t> read_ids(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(ErrorKind::kInput, "{} cannot be opened; give a file that holds a JSON array of token ids", path);
  try {
    const Json json = Json::parse(file);
    std::vector<std::int32_t> ids;
    for (const Json& id : json.get<std::vector<Json>>()) {
      constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > kMost)
        fail(ErrorKind::kInput, "{} holds {}, which is no token id; give a JSON array of whole numbers from 0", path,
             id.dump());
      ids.push_back(id.get<std::int32_t>());
    }
    if (ids.empty()) fail(ErrorKind::kInput, "{} holds no id; give a JSON array of token ids", path);
    return ids;
  } catch (const Json::exception& error) {
    fail(ErrorKind::kInput, "{} is no JSON array of token ids: {}", path, error.what());
  }
}

/// Ids that the model lacks are the file's fault.
void check_ids(const std::string& path, const std::vector<std::int32_t>& ids, std::int64_t vocab) {
  for (const std::int32_t id : ids)
    if (id >= vocab)
      fail(ErrorKind::kInput,
           "{} holds id {}, the model's vocabulary has {} rows; give ids from 0 to {}, as this model's own tokenizer "
           "makes them",
           path, id, vocab, vocab - 1);
}

bool is_file(const std::string& name) {
  std::error_code error;
  return std::filesystem::is_regular_file(name, error);
}

class AskCommand : public Command {
 public:
  AskCommand()
      : Command("ask", "[FLAGS] [MEDIA...] QUESTION",
                "answer a question about videos, images or text\n\n"
                "MEDIA is a video file, an image file, a folder of images (one video) or a .npy file (uint8\n"
                "[T,H,W,3]), as many as you like. QUESTION comes last; - reads it from standard input. The answer\n"
                "goes to standard output, progress and a table of sizes and times to standard error. \"paper\" below\n"
                "is the default under --preset purekv-paper.") {
    add_ask_flags(app_, flags_);
    bind_path(FlagGroup{app_, "Prompt"},
              {"--ids", "FILE", "the whole prompt as a JSON array of token ids, one pad id a medium; no QUESTION then"},
              ids_);
    const FlagGroup group{app_, "Output"};
    bind_switch(group, "--json", "print one JSON object instead of the answer", json_);
    bind_path(group, {"--trace", "DIR", "write what happened as .npy files into DIR"}, trace_);
    bind_switch(group, "--quiet", "print nothing but the answer and errors", quiet_);
  }

 private:
  void run(const std::vector<std::string>& positionals) override {
    AskOptions options = resolve(flags_);
    options.trace_dir = trace_;
    Question question;
    std::vector<std::string> media = positionals;
    if (!ids_.empty()) {
      if (flags_.prompt.system)
        fail(ErrorKind::kUsage, "--ids is the whole prompt, so --system has no place in it; give one of them");
      question.ids = read_ids(ids_);
    } else {
      if (media.empty()) fail(ErrorKind::kUsage, "no question given; see purekv ask --help");
      question.text = read_question(media.back());
      media.pop_back();
    }

    ProgressPrinter printer(quiet_);
    Progress progress = engine_progress(printer);
    if (!json_) progress.text = [&printer](std::string_view utf8) { stream(printer, utf8); };

    const ModelPath model = find_model(flags_.engine.model);
    Engine engine(engine_options(flags_.engine, model.directory), progress);
    check_ids(ids_, question.ids, engine.vocab());
    // The last positional is the question whatever it says (docs/interfaces.md).
    if (ids_.empty() && positionals.size() == 1 && is_file(positionals[0]) && !quiet_)
      print_note("the file's name is taken as the question; is it missing? purekv ask MEDIA QUESTION");
    for (std::size_t i = 0; i < media.size(); ++i) {
      printer.step("media", static_cast<std::int64_t>(i), static_cast<std::int64_t>(media.size()));
      question.media.push_back(open_media(media[i], flags_.media, engine.preprocess()));
      check_interrupt();
    }
    const Answer answer = engine.ask(std::move(question), options, progress);
    check_interrupt();
    printer.clear();
    const Settings settings{flags_, options, model.directory, engine.device(), quiet_, ids_};
    write_out(json_ ? dump(answer_json(settings, answer)) + "\n" : "\n");
    flush_out();
    note_demo(model, quiet_);
    if (!json_ && !quiet_) print_table(closing_table(answer, engine.preprocess().merge));
  }

  static void stream(ProgressPrinter& printer, std::string_view utf8) {
    printer.clear();
    write_out(utf8);
    flush_out();
  }

  AskFlags flags_;
  std::string trace_, ids_;
  bool json_ = false, quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_ask_command() { return std::make_unique<AskCommand>(); }

}  // namespace purekv::app
