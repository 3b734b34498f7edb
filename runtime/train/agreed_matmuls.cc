#include "runtime/train/agreed_matmuls.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/agreement.h"

namespace muster::runtime {
namespace {

using kernels::MatmulAlgorithm;
using kernels::MatmulChoice;
using kernels::MatmulKey;

constexpr int64_t kSayAgainNs = 1'000'000'000;

// Seconds, about: what a search takes in any case, and some 20 runs at 600 TFLOP/s.
double SearchCost(double flops) { return 0.03 + 20 * flops / 6e14; }

// Words of a message between ranks, which are of one build.
void AppendAlgorithm(const MatmulAlgorithm& algorithm, std::string* text) {
  for (const uint64_t word : algorithm.data) absl::StrAppend(text, " ", absl::Hex(word));
}
MatmulAlgorithm AlgorithmIn(const std::vector<std::string>& words, size_t first) {
  MatmulAlgorithm algorithm;
  MUSTER_CHECK_EQ(words.size(), first + std::size(algorithm.data));
  for (size_t i = 0; i < std::size(algorithm.data); ++i) {
    MUSTER_CHECK(absl::SimpleHexAtoi(words[first + i], &algorithm.data[i])) << words[first + i];
  }
  return algorithm;
}

std::string ToText(const MatmulWishes& mine) {
  std::string text = mine.scope;
  for (const MatmulWish& wish : mine.wishes) {
    const auto& known = wish.of_run ? wish.of_run : wish.of_user;
    absl::StrAppend(&text, "\n", wish.key, " ", wish.flops, " ",
                    wish.of_run    ? "run"
                    : wish.of_user ? "user"
                                   : "-");
    if (known) AppendAlgorithm(*known, &text);
  }
  return text;
}

MatmulWishes WishesIn(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  MatmulWishes wishes = {.scope = lines.front()};
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> words = absl::StrSplit(lines[i], ' ');
    MatmulWish wish;
    MUSTER_CHECK(words.size() >= 3 && absl::SimpleAtod(words[1], &wish.flops)) << lines[i];
    wish.key = words[0];
    if (words[2] == "run") wish.of_run = AlgorithmIn(words, 3);
    if (words[2] == "user") wish.of_user = AlgorithmIn(words, 3);
    wishes.wishes.push_back(std::move(wish));
  }
  return wishes;
}

// What is in a file; nothing if it is of no use, which `warns` says whether to say.
KeptMatmuls Kept(const std::string& path, bool warns) {
  if (path.empty()) return {};
  absl::StatusOr<MatmulFile> file = ReadMatmulFile(path);
  std::string problem;
  if (!file.ok()) {
    problem = std::string(file.status().message());
  } else if (!file->of_our_form) {
    problem = absl::StrCat(path, " is no file of matrix product algorithms of this version");
  } else if (file->damaged_lines > 0) {
    problem = absl::StrCat(path, " has ", file->damaged_lines, " damaged lines, which are passed ",
                           "over: their products are searched again");
  }
  if (warns && !problem.empty()) kernels::Log(kernels::Severity::kWarning, problem);
  return file.ok() ? std::move(file->matmuls) : KeptMatmuls();
}

void Keep(const std::string& path, const KeptMatmuls& matmuls) {
  if (path.empty()) return;
  const absl::Status status = AddToMatmulFile(path, matmuls);
  if (status.ok()) return;
  kernels::Log(kernels::Severity::kWarning,
               absl::StrCat("chosen matrix product algorithms are not kept: ", status.message()));
}

MatmulWishes WishesFor(const std::map<std::string, MatmulKey>& keys,
                       kernels::MatmulChooser* chooser, const MatmulFiles& files,
                       const parallel::World& world) {
  MatmulWishes mine;
  if (chooser == nullptr) return mine;
  mine.scope = chooser->scope();
  const KeptMatmuls of_run = Kept(files.of_run, world.rank() == 0);
  const KeptMatmuls of_user = Kept(files.of_user, world.local_rank() == 0);
  for (const auto& [name, key] : keys) {
    const auto look = [&](const KeptMatmuls& kept) -> std::optional<MatmulAlgorithm> {
      const auto found = kept.find({mine.scope, name});
      if (found == kept.end() || !chooser->Accepts(key, found->second)) return std::nullopt;
      return found->second;
    };
    mine.wishes.push_back(
        {.key = name, .flops = key.flops(), .of_run = look(of_run), .of_user = look(of_user)});
  }
  return mine;
}

struct Chosen {
  KeptMatmuls used, kept;
};

// What all ranks have found, by rank. Errors: the first rank's that has one.
absl::Status TakeFound(const std::vector<std::string>& answers,
                       const std::vector<MatmulWishes>& all, Chosen* chosen) {
  std::vector<std::string> errors(answers.size());
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    const std::vector<std::string> lines = absl::StrSplit(answers[rank], '\n');
    if (!lines.front().empty()) {
      errors[rank] = answers[rank];
      continue;
    }
    for (size_t i = 1; i < lines.size(); ++i) {
      const std::vector<std::string> words = absl::StrSplit(lines[i], ' ');
      const std::pair<std::string, std::string> product = {all[rank].scope, words[0]};
      chosen->used[product] = AlgorithmIn(words, 2);
      if (words[1] == "kept") chosen->kept[product] = chosen->used[product];
    }
  }
  return FirstError(errors);
}

// This rank's searches, with what it tells the others: an empty line, then one for each product; or
// its status' text.
class Searches {
 public:
  Searches(kernels::MatmulChooser* chooser, const parallel::World& world)
      : chooser_(chooser), world_(world) {}

  std::string Run(std::vector<MatmulKey> keys, size_t on_all) {
    // The chooser keeps the memory of the first.
    const auto bytes = [](const MatmulKey& key) {
      return key.a_bytes() + key.b_bytes() + key.c_bytes();
    };
    std::sort(keys.begin(), keys.end(), [&](const MatmulKey& a, const MatmulKey& b) {
      return std::pair(-bytes(a), a) < std::pair(-bytes(b), b);
    });
    std::string found;
    for (size_t i = 0; i < keys.size(); ++i) {
      Say(i, keys.size(), on_all);
      const absl::StatusOr<MatmulChoice> choice = chooser_->Search(keys[i]);
      if (!choice.ok()) return StatusText(choice.status());
      absl::StrAppend(&found, "\n", keys[i].ToString(), choice->searched ? " kept" : " once");
      AppendAlgorithm(choice->algorithm, &found);
    }
    return found;
  }

 private:
  void Say(size_t done, size_t mine, size_t on_all) {
    const int64_t now = kernels::MonotonicNs();
    if (world_.rank() != 0 || (done > 0 && now - said_ns_ < kSayAgainNs)) return;
    said_ns_ = now;
    std::string text = absl::StrFormat("choosing matrix product algorithms: %d of %d", done, mine);
    if (mine != on_all) absl::StrAppend(&text, " on this rank, ", on_all, " on all");
    kernels::Log(kernels::Severity::kInfo, text);
  }

  kernels::MatmulChooser* const chooser_;
  const parallel::World& world_;
  int64_t said_ns_ = 0;
};

}  // namespace

MatmulDivision DivideMatmuls(const std::vector<MatmulWishes>& all) {
  struct Product {
    std::optional<MatmulAlgorithm> of_run, of_user;
    double flops = 0;
    std::vector<size_t> ranks;
  };
  std::map<std::pair<std::string, std::string>, Product> products;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    for (const MatmulWish& wish : all[rank].wishes) {
      Product& product = products[{all[rank].scope, wish.key}];
      if (!product.of_run) product.of_run = wish.of_run;
      if (!product.of_user) product.of_user = wish.of_user;
      product.flops = wish.flops;
      product.ranks.push_back(rank);
    }
  }
  MatmulDivision division;
  division.searches.resize(all.size());
  std::vector<std::pair<const std::string*, const Product*>> unknown;
  for (const auto& [name, product] : products) {
    const auto& known = product.of_run ? product.of_run : product.of_user;
    if (known) {
      division.known[name] = *known;
    } else {
      unknown.emplace_back(&name.second, &product);
    }
  }
  // The dearest first, each to the rank that has least to do so far.
  std::stable_sort(unknown.begin(), unknown.end(),
                   [](const auto& a, const auto& b) { return a.second->flops > b.second->flops; });
  std::vector<double> load(all.size(), 0);
  for (const auto& [key, product] : unknown) {
    const size_t rank = *std::min_element(product->ranks.begin(), product->ranks.end(),
                                          [&](size_t a, size_t b) { return load[a] < load[b]; });
    load[rank] += SearchCost(product->flops);
    division.searches[rank].push_back(*key);
  }
  return division;
}

absl::Status AgreeOnMatmuls(const std::set<MatmulKey>& wanted, kernels::MatmulChooser* chooser,
                            const MatmulFiles& files, parallel::World& world) {
  std::map<std::string, MatmulKey> keys;
  for (const MatmulKey& key : wanted) {
    if (chooser != nullptr && kernels::IsSearched(key)) keys.emplace(key.ToString(), key);
  }
  const MatmulWishes mine = WishesFor(keys, chooser, files, world);
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, world.GatherText(ToText(mine)));
  std::vector<MatmulWishes> all;
  for (const std::string& text : texts) all.push_back(WishesIn(text));
  // No scope: the search is off there.
  const auto chooses = [](const MatmulWishes& wishes) { return !wishes.scope.empty(); };
  if (std::any_of(all.begin(), all.end(), chooses) &&
      !std::all_of(all.begin(), all.end(), chooses)) {
    return absl::FailedPreconditionError(
        "MUSTER_MATMUL_SEARCH=0 is set for some ranks only, which would multiply by other "
        "algorithms; "
        "set it for all (mpirun -x MUSTER_MATMUL_SEARCH) or none");
  }
  const MatmulDivision division = DivideMatmuls(all);
  Chosen chosen = {.used = division.known, .kept = division.known};
  size_t on_all = 0;
  for (const std::vector<std::string>& searches : division.searches) on_all += searches.size();
  if (on_all > 0) {
    std::vector<MatmulKey> searches;
    for (const std::string& key : division.searches[static_cast<size_t>(world.rank())]) {
      searches.push_back(keys.at(key));
    }
    const std::string found = Searches(chooser, world).Run(std::move(searches), on_all);
    ASSIGN_OR_RETURN(const std::vector<std::string> answers, world.GatherText(found));
    RETURN_IF_ERROR(TakeFound(answers, all, &chosen));
  }
  if (chooser != nullptr) {
    std::map<MatmulKey, MatmulAlgorithm> used;
    for (const auto& [name, key] : keys) used[key] = chosen.used.at({mine.scope, name});
    chooser->Use(used);
  }
  if (world.rank() == 0) Keep(files.of_run, chosen.kept);
  if (world.local_rank() == 0) Keep(files.of_user, chosen.kept);
  return absl::OkStatus();
}

}  // namespace muster::runtime
