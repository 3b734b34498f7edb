#include "runtime/job/config.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "kernels/base/hash.h"
#include "models/config.h"
#include "runtime/job/field_path.h"
#include "runtime/job/job_rules.h"
#include "runtime/job/overrides.h"
#include "runtime/job/text_reader.h"

namespace muster::runtime {
namespace {

// A model_file given in the config is relative to the config; one given by --set is relative to
// where the user stands.
std::string ModelPath(const Job& job, const FieldOrigins& origins) {
  const std::filesystem::path file = job.model_file();
  if (file.is_absolute() || origins.WhereOf("model_file").starts_with("--set")) return file;
  return (std::filesystem::path(origins.file()).parent_path() / file).lexically_normal();
}

// Puts the model file's fields under those that the job gives itself.
void MergeModelFile(Job* job, FieldOrigins* origins, std::vector<ConfigProblem>* problems) {
  if (job->model_file().empty()) return;
  const std::string path = ModelPath(*job, *origins);
  std::string text;
  std::vector<ConfigProblem> unreadable;
  if (!ReadConfigFile(path, &text, &unreadable)) {
    problems->push_back({origins->WhereOf("model_file"),
                         absl::StrCat("model_file ", path, " ", unreadable.front().message)});
    origins->MarkBroken("model");
    return;
  }
  models::ModelConfig model;
  FieldOrigins model_origins(path, *Job::descriptor());
  ReadTextProto(text, "model.", &model, &model_origins, problems);
  model.MergeFrom(job->model());
  *job->mutable_model() = std::move(model);
  origins->AddMissing(model_origins);
}

void FillDefaults(Job* job, FieldOrigins* origins, std::vector<ConfigProblem>* problems) {
  if (!job->has_model() && !origins->IsBroken("model")) {
    problems->push_back(
        {origins->file(), "model is missing: name a model_file, or give a model block"});
    origins->MarkBroken("model");
  }
  FillFieldDefaults(job);
  models::FillDefaults(job->mutable_model());
  if (job->name().empty()) job->set_name(std::filesystem::path(origins->file()).stem());
  if (!job->train().has_sequence_length() && job->model().max_positions() > 0) {
    job->mutable_train()->set_sequence_length(job->model().max_positions());
  }
  if (!job->communication().has_bucket_megabytes()) {
    // A GPU fills the default of the CPU in less than a millisecond: it wants fewer, longer calls.
    job->mutable_communication()->set_bucket_megabytes(job->device() == CUDA ? 250 : 25);
  }
}

// Canonical text: fields in order of declaration, every default written out, no model_file, as the
// model is in it.
std::string ResolvedText(const Job& job) {
  google::protobuf::TextFormat::Printer printer;
  std::string text;
  printer.PrintToString(job, &text);
  return text;
}

std::string KeptPath(const std::string& run_directory) {
  return (std::filesystem::path(run_directory) / "config.textproto").string();
}

// False: there is no such file. Problems within it are added.
bool ReadKept(Job* job, FieldOrigins* origins, std::vector<ConfigProblem>* problems) {
  problems->clear();
  std::string text;
  if (!ReadConfigFile(origins->file(), &text, problems)) return false;
  ReadTextProto(text, "", job, origins, problems);
  FillDefaults(job, origins, problems);
  return true;
}

bool Resolve(Job job, int world_size, FileRules files, const FieldOrigins& origins,
             ResolvedJob* resolved, std::vector<ConfigProblem>* problems) {
  const parallel::MeshDegrees mesh = CheckJob(job, world_size, files, origins, problems);
  if (!problems->empty()) return false;
  job.mutable_mesh()->set_dp(mesh.dp);
  job.clear_model_file();
  resolved->mesh = mesh;
  resolved->sequence_length = job.train().sequence_length();
  resolved->microbatch_sequences =
      job.train().global_batch_sequences() / (mesh.dp * job.schedule().microbatches());
  resolved->text = ResolvedText(job);
  resolved->hash = kernels::Hash64(resolved->text);
  resolved->job = std::move(job);
  return true;
}

}  // namespace

bool LoadJob(const std::string& path, const std::vector<std::string>& overrides, int world_size,
             ResolvedJob* job, std::vector<ConfigProblem>* problems) {
  *job = {};
  problems->clear();
  std::string text;
  if (!ReadConfigFile(path, &text, problems)) return false;
  Job config;
  FieldOrigins origins(path, *Job::descriptor());
  ReadTextProto(text, "", &config, &origins, problems);
  ApplyOverrides(overrides, &config, &origins, problems);
  MergeModelFile(&config, &origins, problems);
  FillDefaults(&config, &origins, problems);
  return Resolve(std::move(config), world_size, FileRules::kCheck, origins, job, problems);
}

bool LoadCommunication(const std::string& path, const std::vector<std::string>& overrides,
                       DeviceKind device, Communication* communication,
                       std::vector<ConfigProblem>* problems) {
  problems->clear();
  Job config;
  FieldOrigins origins(path, *Job::descriptor());
  std::string text;
  if (!path.empty()) {
    if (!ReadConfigFile(path, &text, problems)) return false;
    ReadTextProto(text, "", &config, &origins, problems);
  }
  for (const std::string& override_text : overrides) {
    if (override_text.starts_with("communication.")) continue;
    problems->push_back({"--set " + override_text.substr(0, override_text.find('=')),
                         "wanted a field of communication: no other is read here"});
  }
  if (!problems->empty()) return false;
  ApplyOverrides(overrides, &config, &origins, problems);
  config.set_device(device);
  CheckCommunication(config, origins, problems);
  *communication = config.communication();
  return problems->empty();
}

bool LoadResolvedJob(const std::string& run_directory, ResolvedJob* job,
                     std::vector<ConfigProblem>* problems) {
  *job = {};
  Job config;
  FieldOrigins origins(KeptPath(run_directory), *Job::descriptor());
  if (!ReadKept(&config, &origins, problems)) return false;
  return Resolve(std::move(config), /*world_size=*/0, FileRules::kSkip, origins, job, problems);
}

bool ReadKeptJob(const std::string& run_directory, Job* job, std::vector<ConfigProblem>* problems) {
  FieldOrigins origins(KeptPath(run_directory), *Job::descriptor());
  return ReadKept(job, &origins, problems) && problems->empty();
}

std::string Describe(const std::vector<ConfigProblem>& problems, const std::string& path) {
  std::string text = absl::StrCat(
      problems.size(), problems.size() == 1 ? " problem in " : " problems in ", path, ":\n");
  int number = 0;
  for (const ConfigProblem& problem : problems) {
    absl::StrAppend(&text, "  ", ++number, ". ", problem.where, ": ", problem.message, "\n");
  }
  return text;
}

}  // namespace muster::runtime
