#pragma once
// Fields of a config message by their dotted path ("optimizer.beta1"), and where each was given.
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace muster::runtime {

// Paths of all fields below `type`, in order of declaration; blocks too where `with_blocks`.
std::vector<std::string> FieldPaths(const google::protobuf::Descriptor& type, bool with_blocks);

// A line for each key of a job: path, type, default; what scripts may rely on.
// "optimizer.decay RateDecay{COSINE,LINEAR,CONSTANT} = COSINE"
std::vector<std::string> ConfigKeys();

// The path of the key that `path` probably means: the same last name elsewhere in the tree
// ("microbatches" -> "schedule.microbatches"), or the nearest spelling; "" if none.
std::string NearestPath(const std::string& path, const google::protobuf::Descriptor& type);

// Sets every scalar that has a default and is absent to that default, and makes absent blocks,
// but for those whose absence means something (model.moe, data.synthetic).
void FillFieldDefaults(google::protobuf::Message* message);

// A scalar field's value as a number; the default where it is absent. CHECKs that the path exists.
double NumberAt(const google::protobuf::Message& message, const std::string& path);
// Every field that is present, as path and text ("mesh.dp", "8"; strings quoted), in order of
// declaration; elements of lists are "path[i]".
std::vector<std::pair<std::string, std::string>> FieldValues(
    const google::protobuf::Message& message);
// Whether a field is present (for repeated fields: not empty). CHECKs that the path exists.
bool IsGiven(const google::protobuf::Message& message, const std::string& path);

// Where fields were given, and which could not be read.
class FieldOrigins {
 public:
  // `type`: the message that paths start from.
  FieldOrigins(std::string file, const google::protobuf::Descriptor& type)
      : file_(std::move(file)), type_(type) {}
  void Record(const std::string& path, const std::string& where) { where_[path] = where; }
  bool Has(const std::string& path) const { return where_.count(path) > 0; }
  // Adds what `other` knows and this does not.
  void AddMissing(const FieldOrigins& other);
  // Where the field was given; else its nearest enclosing block; else the file.
  std::string WhereOf(std::string path) const;
  // The field has a problem already: rules about it or its enclosing block would only repeat it.
  void MarkBroken(const std::string& path) { broken_.insert(path); }
  bool IsBroken(std::string path) const;
  // Whether this field, or one inside it, is broken.
  bool HasBroken(const std::string& path) const;
  const std::string& file() const { return file_; }
  const google::protobuf::Descriptor& type() const { return type_; }

 private:
  std::string file_;
  const google::protobuf::Descriptor& type_;
  std::map<std::string, std::string> where_;
  std::set<std::string> broken_;
};

}  // namespace muster::runtime
