#include "launcher/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>

#include "core/config/load.h"
#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/rank_env.h"

namespace trireme {

namespace {

constexpr const char* kVersion = "trireme 0.1.0";

// The grammar of the command line, and the values that it was given.
class CommandLine {
 public:
  CommandLine() : app_("Trains large language models on one machine or many.", "trireme") {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", kVersion, "Print the version");
    app_.footer("Example:\n  trireme train configs/quickstart.yaml\n\nEach command has its own --help.");
    add_train();
    add_launch();
    add_data();
    add_generate();
    add_probe();
    add_verify();
    add_plan();
    add_checkpoint();
    add_doctor();
  }

  // Throws CLI::ParseError; help and version are among them.
  void parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app_.parse(arguments);
    launch_args_.command = launch_->remaining();
  }

  int run() const {
    if (*train_) return train_command(train_args_);
    if (*launch_) return launch_command(launch_args_);
    if (*tokenize_) return tokenize_command(tokenize_options_);
    if (*inspect_) return inspect_command(inspect_path_, inspect_tokenizer_);
    if (*generate_) return generate_command(generate_options_);
    if (*probe_) return probe_command(probe_options_, probe_sets_);
    if (*verify_) return verify_command(verify_args_);
    if (*plan_) return plan_command(plan_args_);
    if (*checkpoint_inspect_) return checkpoint_inspect_command(checkpoint_inspect_args_);
    if (*checkpoint_verify_) return checkpoint_verify_command(checkpoint_verify_path_);
    if (*checkpoint_diff_) return checkpoint_diff_command(checkpoint_diff_args_);
    if (*checkpoint_export_) return checkpoint_export_command(checkpoint_export_args_);
    if (*checkpoint_import_) return checkpoint_import_command(checkpoint_import_args_);
    return doctor_command();
  }

  // Its ranks are tasks that must find each other.
  bool is_parallel() const { return *train_ || *probe_; }

  // Prints help or the version, or throws the ConfigError that the parse error means.
  int answer(const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app_.exit(error);
    const CLI::App* command = &app_;
    while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
    const std::string name = command == &app_ ? "trireme" : "trireme " + path_of(command);
    const std::vector<std::string> rest = command->remaining();
    const std::string near = rest.empty() ? "" : nearest(*command, rest.front());
    const bool unknown_command = command->get_require_subcommand_min() > 0 && !rest.empty() && rest.front()[0] != '-';
    throw ConfigError({.what = unknown_command ? "unknown command '" + rest.front() + "'" : error.what(),
                       .hint = near.empty() ? name + " --help" : near});
  }

 private:
  static std::string path_of(const CLI::App* command) {
    const CLI::App* parent = command->get_parent();
    return (parent->get_parent() ? path_of(parent) + " " : "") + command->get_name();
  }

  // The option or command nearest to a word that isn't one.
  static std::string nearest(const CLI::App& command, const std::string& word) {
    std::vector<std::string> known;
    for (const CLI::Option* option : command.get_options()) known.push_back(option->get_name());
    for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; })) {
      known.push_back(sub->get_name());
    }
    return nearest_word(word, known);
  }

  static void add_sets(CLI::App* command, std::vector<std::string>& sets) {
    command->add_option("--set", sets, "Override a key of the configuration: --set optimizer.lr=1e-3")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
  }

  void add_train() {
    train_ = app_.add_subcommand("train", "Train a model");
    train_->add_option("CONFIG", train_args_.config, "The YAML file")->required();
    add_sets(train_, train_args_.sets);
    train_->add_flag("--dump-config", train_args_.dump_config, "Print the whole resolved configuration and stop");
    train_->add_flag("--dry-run", train_args_.dry_run, "Check everything, print the plan and stop before step 1");
    train_->add_flag_callback(
        "--help-config",
        [] {
          std::fputs(config_reference().c_str(), stdout);
          throw CLI::Success();
        },
        "Print every key of the configuration with its default and meaning");
    train_->footer(
        "The same line works under mpirun, srun --mpi=pmix and trireme launch.\n\nExample:\n"
        "  trireme train configs/quickstart.yaml --set run.steps=100 --set optimizer.lr=1e-3");
  }

  void add_launch() {
    launch_ = app_.add_subcommand("launch", "Start the ranks of a command through mpirun, and restart them");
    launch_->add_option("--nproc", launch_args_.nproc, "Ranks (default: one for each GPU, else 1)")
        ->check(CLI::Range(1, 1 << 20));
    launch_->add_option("--hosts", launch_args_.hosts, "Open MPI host file: lines of HOST slots=N");
    launch_->add_option("--max-restarts", launch_args_.max_restarts, "Restarts after a crash (default: 0)")
        ->check(CLI::Range(0, 1 << 20));
    launch_->prefix_command();
    launch_->footer("Example:\n  trireme launch --nproc 2 train configs/quickstart.yaml");
  }

  void add_data() {
    CLI::App* data = app_.add_subcommand("data", "Make and look at token files");
    data->require_subcommand(1);
    data->footer("Example:\n  trireme data tokenize book.txt --tokenizer bytes --out data/book");
    tokenize_ = data->add_subcommand("tokenize", "Text or .jsonl (or .gz of them) to PREFIX.bin and PREFIX.idx");
    tokenize_->add_option("INPUT", tokenize_options_.inputs, "Files")->required();
    tokenize_
        ->add_option("--tokenizer", tokenize_options_.tokenizer, "bytes, a SentencePiece .model or a tokenizer.json")
        ->required();
    tokenize_->add_option("--out", tokenize_options_.out_prefix, "PREFIX of the files to write")->required();
    tokenize_->add_option("--jsonl-field", tokenize_options_.jsonl_field, "The text's field in .jsonl (default: text)");
    tokenize_->add_flag("--append-eod", tokenize_options_.append_eod, "End each document with the tokenizer's id");
    tokenize_->footer("Example:\n  trireme data tokenize a.txt b.jsonl.gz --tokenizer bytes --out data/corpus");
    inspect_ = data->add_subcommand("inspect", "Format, tokens, documents and first text of a token file");
    inspect_->add_option("PREFIX", inspect_path_, "PREFIX or FILE")->required();
    inspect_->add_option("--tokenizer", inspect_tokenizer_, "Shows the first text with it (default: bytes)");
    inspect_->footer("Example:\n  trireme data inspect data/kjv");
  }

  void add_generate() {
    generate_ = app_.add_subcommand("generate", "Continue a prompt with a trained model");
    generate_->add_option("MODEL", generate_options_.path, "Run directory, checkpoint or Hugging Face directory")
        ->required();
    generate_->add_option("--prompt", generate_options_.prompt, "The text to continue")->required();
    generate_->add_option("--max-tokens", generate_options_.max_tokens, "Tokens to add (default: 200)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    generate_->add_option("--temperature", generate_options_.temperature, "0: always the likeliest (default: 1)")
        ->check(CLI::Range(0.0, 1e6));
    generate_->add_option("--top-k", generate_options_.top_k, "Among the k likeliest; 0: among all (default)")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
    generate_->add_option("--seed", generate_options_.seed, "Of the draws (default: 1234)");
    generate_->footer("Example:\n  trireme generate runs/kjv --prompt 'And God said' --temperature 0.8");
  }

  void add_probe() {
    probe_ = app_.add_subcommand("probe", "Training steps on given tokens from given weights, to compare programs");
    probe_->add_option("HF_DIR", probe_options_.hf_dir, "Hugging Face directory: config.json, safetensors")->required();
    probe_->add_option("--tokens", probe_options_.tokens, "safetensors with input_ids and labels")->required();
    probe_->add_option("--out", probe_options_.out, "safetensors to write")->required();
    probe_->add_option("--steps", probe_options_.steps, "Steps (default: as many as the tokens have)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    probe_->add_flag("--logits", probe_options_.logits, "Write the logits of step 1 too");
    add_sets(probe_, probe_sets_);
    probe_->footer("Example:\n  trireme probe model/ --tokens tokens.safetensors --out result.safetensors --steps 3");
  }

  void add_verify() {
    verify_ = app_.add_subcommand("verify", "The configured layout against one rank, on a shrunken model");
    verify_->add_option("CONFIG", verify_args_.config, "The YAML file")->required();
    add_sets(verify_, verify_args_.sets);
    verify_->add_flag("--no-shrink", verify_args_.no_shrink, "Run it as it is; for models that are small already");
    verify_->footer(
        "Runs two steps with all ranks as threads of this process; exit code 7 where gradients or weights differ.\n\n"
        "Example:\n  trireme verify configs/llama3-70b.yaml --set parallel.zero=2");
  }

  void add_plan() {
    plan_ = app_.add_subcommand(
        "plan", "Memory of the configured layout, and its pipeline schedule: bubble, stashes, a picture");
    plan_->add_option("CONFIG", plan_args_.config, "The YAML file")->required();
    add_sets(plan_, plan_args_.sets);
    plan_->add_option("--gpus", plan_args_.gpus, "Ranks (default: the product of the degrees, data: auto being 1)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
    plan_
        ->add_option("--times", plan_args_.times,
                     "Time of a layer's forward and of the halves of its backward, input and weight (default: 1:1:1)")
        ->type_name("F:B:W");
    plan_->add_option("--timeline", plan_args_.timeline, "Draw the schedule; OUT.json beside it is for Perfetto")
        ->type_name("OUT.svg");
    plan_->add_flag("--json", plan_args_.json, "Print JSON");
    plan_->footer("Example:\n  trireme plan configs/qwen2.5-7b.yaml --set parallel.pipeline=4 --timeline schedule.svg");
  }

  void add_checkpoint() {
    constexpr const char* kWhat = "A checkpoint, or a run directory (its newest)";
    CLI::App* group = app_.add_subcommand("checkpoint", "Look at checkpoints and convert them");
    group->require_subcommand(1);
    group->footer("Example:\n  trireme checkpoint export runs/kjv hf/kjv");
    const auto add = [&](const char* name, const char* what, const char* example) {
      CLI::App* command = group->add_subcommand(name, what);
      command->footer(std::string("Example:\n  trireme checkpoint ") + example);
      return command;
    };
    checkpoint_inspect_ = add("inspect", "Step, layout, model, files and tensors", "inspect runs/kjv");
    checkpoint_inspect_->add_option("DIR", checkpoint_inspect_args_.path, kWhat)->required();
    checkpoint_inspect_->add_flag("--json", checkpoint_inspect_args_.json, "Print JSON");
    checkpoint_verify_ = add("verify", "Check every byte against its hash; exit code 3 names what is broken",
                             "verify runs/kjv/checkpoints/step-00000600");
    checkpoint_verify_->add_option("DIR", checkpoint_verify_path_, "A checkpoint, or a run directory (all of its)")
        ->required();
    checkpoint_diff_ =
        add("diff", "Compare two checkpoints, whatever layouts wrote them; exit code 7 where they differ",
            "diff runs/a runs/b --tolerance 1e-5");
    checkpoint_diff_->add_option("A", checkpoint_diff_args_.a, kWhat)->required();
    checkpoint_diff_->add_option("B", checkpoint_diff_args_.b, kWhat)->required();
    checkpoint_diff_
        ->add_option("--tolerance", checkpoint_diff_args_.tolerance,
                     "Largest difference that passes, relative to the tensor's largest value (default: every bit)")
        ->check(CLI::Range(0.0, 1e300));
    checkpoint_diff_->add_flag("--weights", checkpoint_diff_args_.weights,
                               "Weights only, without optimizer states, step and seed");
    checkpoint_diff_->add_option("--rows", checkpoint_diff_args_.rows, "Tensors to list; 0: all (default: 30)");
    checkpoint_export_ = add("export", "Write a Hugging Face directory", "export runs/kjv hf/kjv --dtype bf16");
    checkpoint_export_->add_option("DIR", checkpoint_export_args_.path, kWhat)->required();
    checkpoint_export_->add_option("OUT", checkpoint_export_args_.out, "The directory to make")->required();
    checkpoint_export_
        ->add_option("--max-shard-size", checkpoint_export_args_.max_shard_size, "Of a file (default: 5GB)")
        ->type_name("SIZE");
    checkpoint_export_->add_option("--dtype", checkpoint_export_args_.dtype, "fp32 or bf16 (default: as it is stored)")
        ->check(CLI::IsMember({"fp32", "bf16"}));
    checkpoint_import_ =
        add("import", "Make a checkpoint of a Hugging Face directory", "import hf/qwen checkpoints/qwen");
    checkpoint_import_->add_option("HF_DIR", checkpoint_import_args_.path, "config.json and safetensors")->required();
    checkpoint_import_->add_option("OUT", checkpoint_import_args_.out, "The directory to make")->required();
  }

  void add_doctor() {
    doctor_ = app_.add_subcommand("doctor", "What this machine has, what is missing, which package brings it");
    doctor_->footer("Example:\n  trireme doctor");
  }

  CLI::App app_;
  CLI::App* train_ = nullptr;
  CLI::App* launch_ = nullptr;
  CLI::App* tokenize_ = nullptr;
  CLI::App* inspect_ = nullptr;
  CLI::App* generate_ = nullptr;
  CLI::App* probe_ = nullptr;
  CLI::App* verify_ = nullptr;
  CLI::App* plan_ = nullptr;
  CLI::App* checkpoint_inspect_ = nullptr;
  CLI::App* checkpoint_verify_ = nullptr;
  CLI::App* checkpoint_diff_ = nullptr;
  CLI::App* checkpoint_export_ = nullptr;
  CLI::App* checkpoint_import_ = nullptr;
  CLI::App* doctor_ = nullptr;
  TrainArgs train_args_;
  LaunchArgs launch_args_;
  TokenizeOptions tokenize_options_;
  std::string inspect_path_;
  std::string inspect_tokenizer_ = "bytes";
  GenerateOptions generate_options_;
  ProbeOptions probe_options_;
  std::vector<std::string> probe_sets_;
  VerifyArgs verify_args_;
  PlanArgs plan_args_;
  CheckpointInspectArgs checkpoint_inspect_args_;
  std::string checkpoint_verify_path_;
  CheckpointDiffArgs checkpoint_diff_args_;
  CheckpointExportArgs checkpoint_export_args_;
  CheckpointImportArgs checkpoint_import_args_;
};

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

int run_arguments(const std::vector<std::string>& arguments, const RankEnv& env) {
  CommandLine line;
  try {
    line.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return line.answer(error);
  }
  if (line.is_parallel()) check_tasks(env, joined(arguments));
  return line.run();
}

}  // namespace

void check_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  try {
    line.parse(arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) line.answer(error);
  }
}

int run_command_line(int argc, char** argv) {
  const RankEnv env = find_rank_env();
  const auto fail = [&](ExitCode code, const std::string& message) {
    if (env.rank == 0) std::fprintf(stderr, "error: %s\n", message.c_str());
    return static_cast<int>(code);
  };
  try {
    return run_arguments(std::vector<std::string>(argv + 1, argv + argc), env);
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::machine, "this machine is out of memory");
  } catch (const std::exception& error) {
    return fail(ExitCode::bug, error.what());
  }
}

}  // namespace trireme
