#pragma once

#include <optional>
#include <string>

namespace purekv::app {

struct ModelPath {
  std::string directory;
  bool is_demo = false;  ///< nobody named a model
};

/// `given`, else the demo model: beside the installed program (../share/purekv/demo), in the source tree it was
/// built from, or three folders up from a build.
/// Throws Error(kInput) where none is there.
ModelPath find_model(const std::optional<std::string>& given);

/// Says on stderr what the demo model can do, unless `quiet`.
void note_demo(const ModelPath& model, bool quiet);

}  // namespace purekv::app
