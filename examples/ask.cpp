// The smallest program on the library: ask CLIP QUESTION MODEL_DIR
#include <purekv/engine.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s CLIP QUESTION MODEL_DIR\n", argv[0]);
    return 2;
  }
  try {
    purekv::EngineOptions engine_options;
    engine_options.model_dir = argv[3];
    purekv::Engine engine(engine_options);

    purekv::Question question;
    question.media.push_back(purekv::open_media(argv[1], {}, engine.preprocess()));
    question.text = argv[2];
    const purekv::Answer answer = engine.ask(std::move(question), purekv::preset_options("purekv"));
    std::printf("%s\n", answer.text.c_str());
  } catch (const purekv::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
