#include "runtime/input/token_source.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/input/foreign_formats.h"
#include "runtime/input/token_file.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {

absl::StatusOr<std::unique_ptr<TokenSource>> TokenSource::Open(const std::string& path,
                                                               HashCheck hash_check) {
  if (const std::string prefix = MegatronPrefix(path); !prefix.empty()) {
    return OpenMegatron(prefix);
  }
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  if (IsTokenFile(file)) return OpenTokenFile(std::move(file), hash_check);
  if (IsLlmcFile(file)) return OpenLlmcFile(std::move(file));
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": wanted a Muster token file, a Megatron-LM .bin/.idx pair or an llm.c .bin, found ",
      file.size() == 0 ? "an empty file" : "none of their magic numbers",
      "; `muster data prepare` makes token files from text"));
}

}  // namespace muster::runtime
