#include <algorithm>
#include <set>
#include <utility>

#include "command.h"
#include "errors.h"
#include "eval_manifest.h"
#include "eval_records.h"
#include "flag_binding.h"
#include "interrupt.h"
#include "model_path.h"
#include "output.h"
#include "progress.h"

namespace purekv::app {
namespace {

class EvalCommand : public Command {
 public:
  EvalCommand()
      : Command(
            "eval", "MANIFEST [FLAGS]",
            "answer a file of questions and count the right answers\n\n"
            "MANIFEST is {\"items\": [...]} or one item a line; an item is {\"id\", \"media\": [files, relative to\n"
            "the manifest], \"question\", \"answer\", \"task\"}. Answers are compared exactly, blanks around them\n"
            "aside. \"paper\" below is the default under purekv-paper.") {
    const FlagGroup group{app_, "Evaluation"};
    bind_path(group, {"--settings", "LIST", "such as full,random@20%,purekv@50%,purekv-paper@10%"}, settings_);
    bind_path(group, {"--out", "FILE", "add a JSON line for each item and setting; skip those it holds"}, out_);
    bind(group,
         {"--shard", "I/N",
          "answer only every N-th group of items that share their media, from the I-th on (default 1/1)"},
         shard_, parse_shard);
    bind_switch(group, "--report", "answer nothing, print the table of what --out holds", report_);
    bind_switch(group, "--json", "print the table as one JSON object", json_);
    bind_switch(group, "--quiet", "no progress on standard error", quiet_);
    add_ask_flags(app_, flags_);
  }

 private:
  void run(const std::vector<std::string>& positionals) override {
    if (positionals.size() != 1)
      fail(ErrorKind::kUsage, "{} manifests given; name one, see purekv eval --help", positionals.size());
    if (report_ && out_.empty()) fail(ErrorKind::kUsage, "--report needs --out FILE");
    const std::vector<EvalSetting> settings = make_settings(settings_, flags_);
    const std::vector<EvalItem> items = read_manifest(positionals.front());
    EvalRecords records(out_);
    if (!report_) answer_all(items, settings, records);
    const EvalTable table = make_table(of_items(records, items), columns(records, settings));
    write_out(json_ ? dump(table_json(table)) + "\n" : table_text(table));
  }

  /// The file's own settings under --report without --settings, else what was asked.
  [[nodiscard]] std::vector<std::string> columns(const EvalRecords& records,
                                                 const std::vector<EvalSetting>& settings) const {
    std::vector<std::string> names;
    if (report_ && settings_.empty()) {
      std::set<std::string> found;
      for (const auto& [key, record] : records.all()) found.insert(key.second);
      names.assign(found.begin(), found.end());
    } else {
      for (const EvalSetting& setting : settings) names.push_back(setting.name);
    }
    return names;
  }

  /// A results file may serve several manifests; the table counts this one's items.
  static std::map<EvalRecords::Key, EvalRecord> of_items(const EvalRecords& records,
                                                         const std::vector<EvalItem>& items) {
    std::set<std::string> ids;
    for (const EvalItem& item : items) ids.insert(item.id);
    std::map<EvalRecords::Key, EvalRecord> chosen;
    for (const auto& entry : records.all())
      if (ids.contains(entry.first.first)) chosen.insert(entry);
    return chosen;
  }

  void answer_all(const std::vector<EvalItem>& items, const std::vector<EvalSetting>& settings, EvalRecords& records) {
    records.open_for_adding();
    const ModelPath model = find_model(flags_.engine.model);
    Progress progress;
    progress.stop = &stop_flag();
    Engine engine(engine_options(flags_.engine, model.directory), progress);
    ProgressPrinter printer(quiet_);
    const std::vector<EvalItem> mine = shard_of(items);
    const auto count = static_cast<std::int64_t>(mine.size());
    Seen seen;
    for (std::int64_t i = 0; i < count; ++i) {
      const EvalItem& item = mine[static_cast<std::size_t>(i)];
      for (const EvalSetting& setting : settings)
        if (!records.holds(item.id, setting.name)) records.add(answer_one(engine, item, setting, seen));
      printer.step("items", i + 1, count);
    }
    printer.clear();
    note_demo(model, quiet_);
  }

  /// Every N-th group of neighbours that ask about the same media: one encoding serves a group.
  [[nodiscard]] std::vector<EvalItem> shard_of(const std::vector<EvalItem>& items) const {
    std::vector<EvalItem> mine;
    std::int64_t group = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0 && (items[i].media.empty() || items[i].media != items[i - 1].media)) ++group;
      if (group % shard_.count == shard_.index - 1) mine.push_back(items[i]);
    }
    return mine;
  }

  /// The media that were encoded last.
  struct Seen {
    std::vector<std::string> paths;
    std::shared_ptr<const EncodedMedia> media;
  };

  void see(const Engine& engine, const std::vector<std::string>& paths, const Progress& progress, Seen& seen) {
    if (seen.media != nullptr && seen.paths == paths) return;
    std::vector<std::unique_ptr<ClipSource>> sources;
    sources.reserve(paths.size());
    for (const std::string& path : paths) sources.push_back(open_media(path, flags_.media, engine.preprocess()));
    seen = {paths, engine.encode(sources, progress)};
  }

  EvalRecord answer_one(Engine& engine, const EvalItem& item, const EvalSetting& setting, Seen& seen) {
    try {
      Progress progress;
      progress.stop = &stop_flag();
      see(engine, item.media, progress, seen);
      Question question;
      question.text = item.question;
      question.encoded = seen.media;
      const Answer answer = engine.ask(std::move(question), setting.options, progress);
      check_interrupt();
      const std::string text = trim(answer.text);
      const std::string expected = trim(item.answer);
      return {item.id,
              setting.name,
              item.task,
              text,
              expected,
              text == expected,
              answer.prompt_tokens,
              answer.kv.bytes_full,
              answer.kv.bytes_kept,
              answer.time_ms.first_token};
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kInterrupted) throw;
      fail(error.kind(), "item \"{}\" with {}: {}", item.id, setting.name, error.what());
    }
  }

  AskFlags flags_;
  Shard shard_;
  std::string settings_, out_;
  bool report_ = false, json_ = false, quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace purekv::app
