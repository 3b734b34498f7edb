#pragma once
// Model configs of tests: from text, or from configs/models. Both come with defaults filled in.
#include <google/protobuf/text_format.h>

#include <fstream>
#include <sstream>
#include <string>

#include "kernels/base/error.h"
#include "models/config.h"

namespace muster::models {

inline ModelConfig ConfigOf(const std::string& text) {
  ModelConfig config;
  MUSTER_CHECK(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
  FillDefaults(&config);
  return config;
}

inline ModelConfig ConfigFromFile(const std::string& path) {
  std::ifstream file(path);
  MUSTER_CHECK(file.good()) << path << " cannot be read";
  std::stringstream text;
  text << file.rdbuf();
  return ConfigOf(text.str());
}

}  // namespace muster::models
