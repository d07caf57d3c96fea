#include "launcher/hang_watch.h"

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/metrics/files.h"
#include "core/metrics/run_directory.h"

namespace trireme {

namespace {

namespace fs = std::filesystem;

constexpr double kLongestLook = 5;        // seconds between two looks
constexpr double kOthersPatience = 30;    // for the rank that is to speak
constexpr size_t kNamedRanks = 16;        // in a message
constexpr CommOp kLastOp = CommOp::recv;  // of the enumeration

fs::path file_of(const fs::path& directory, int rank) {
  std::ostringstream name;
  name << "rank-" << std::setw(5) << std::setfill('0') << rank << ".json";
  return directory / name.str();
}

// The ranks whose files are there and whole.
std::vector<RankRecords> read_answers(const fs::path& directory, int world_size) {
  std::vector<RankRecords> answers;
  for (int rank = 0; rank < world_size; ++rank) {
    std::ifstream in(file_of(directory, rank));
    if (!in) continue;
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    try {
      answers.push_back(rank_records_from_json(text));
    } catch (const DataError&) {
      // As good as none.
    }
  }
  return answers;
}

std::string list_of(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(ranks.size(), kNamedRanks); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  }
  if (ranks.size() > kNamedRanks) text += " and " + std::to_string(ranks.size() - kNamedRanks) + " more";
  return text;
}

bool is_waiting(const RankRecords& rank) {
  return std::any_of(rank.records.begin(), rank.records.end(), [](const FlightRecord& r) { return !r.is_finished(); });
}

std::string seconds_str(double seconds) {
  std::ostringstream text;
  text << seconds << " s";
  return text.str();
}

}  // namespace

std::string to_json(const RankRecords& rank) {
  nlohmann::ordered_json json;
  json["rank"] = rank.rank;
  json["host"] = host_name();
  json["groups"] = rank.groups;
  json["calls"] = nlohmann::ordered_json::array();
  const double now = monotonic_seconds();
  for (const FlightRecord& r : rank.records) {
    json["calls"].push_back({{"step", r.step},
                             {"group", r.group},
                             {"group_rank", r.group_rank},
                             {"group_size", r.group_size},
                             {"op", comm_op_name(r.op)},
                             {"sequence", r.sequence},
                             {"peer", r.peer},
                             {"bytes", r.bytes},
                             {"called_seconds_ago", now - r.called},
                             {"finished", r.is_finished()}});
  }
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

RankRecords rank_records_from_json(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    RankRecords rank{.rank = json.at("rank")};
    json.at("groups").get_to(rank.groups);
    for (const nlohmann::json& call : json.at("calls")) {
      FlightRecord r{.step = call.at("step"),
                     .sequence = call.at("sequence"),
                     .group = call.at("group"),
                     .group_rank = call.at("group_rank"),
                     .group_size = call.at("group_size"),
                     .peer = call.at("peer"),
                     .bytes = call.at("bytes"),
                     .called = -call.at("called_seconds_ago").get<double>()};
      const std::string op = call.at("op");
      int number = 0;
      while (number <= static_cast<int>(kLastOp) && comm_op_name(static_cast<CommOp>(number)) != op) ++number;
      if (number > static_cast<int>(kLastOp)) throw DataError({.what = "no such call", .found = op});
      r.op = static_cast<CommOp>(number);
      if (call.at("finished").get<bool>()) r.finished = r.called;
      rank.records.push_back(std::move(r));
    }
    return rank;
  } catch (const nlohmann::json::exception& error) {
    throw DataError({.what = "not the calls of a rank", .found = error.what()});
  }
}

std::string report_hang(const std::vector<RankRecords>& answers, int world_size, double timeout,
                        const std::filesystem::path& directory) {
  std::set<int> answered;
  std::vector<int> outside;
  int64_t step = 0;
  for (const RankRecords& rank : answers) {
    answered.insert(rank.rank);
    if (!is_waiting(rank)) outside.push_back(rank.rank);
    for (const FlightRecord& r : rank.records) step = std::max(step, r.step);
  }
  std::vector<int> silent;
  for (int rank = 0; rank < world_size; ++rank) {
    if (!answered.contains(rank)) silent.push_back(rank);
  }
  std::string found;
  if (!silent.empty()) found += list_of(silent) + " no longer responding: stopped, or the machine is gone";
  if (!outside.empty()) {
    found += (found.empty() ? "" : "; ") + list_of(outside) + " waiting in no call: busy or stuck with something else";
  }
  if (found.empty()) found = "every rank waiting in a call: they wait for each other";
  const PeerError error({.what = "the run stands still in step " + std::to_string(step) +
                                 ": a call has waited for other "
                                 "ranks for " +
                                 seconds_str(timeout),
                         .found = found,
                         .where = directory.string() + ", which says who waits for whom",
                         .hint = "a longer run.hang_timeout if that rank was only slow"});
  std::string details = late_rank_report(answers);
  if (!details.empty()) details.pop_back();  // the last line's end
  return error.what() + std::string("\n") + details;
}

HangWatch::HangWatch(const FlightRecorder& recorder, Options options, Speak speak)
    : recorder_(recorder), options_(std::move(options)), speak_(std::move(speak)) {
  if (options_.timeout > 0 && options_.world_size > 1) thread_ = std::thread([this] { run(); });
}

HangWatch::~HangWatch() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ends_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool HangWatch::sleep(double seconds) {
  std::unique_lock lock(mutex_);
  return !ends_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return ended_; });
}

double HangWatch::look_seconds() const { return std::min(kLongestLook, options_.timeout / 10); }

bool HangWatch::stands_still() const {
  std::error_code error;
  return recorder_.waiting_seconds() > options_.timeout || fs::exists(options_.directory, error);
}

void HangWatch::run() {
  do {
    if (!sleep(look_seconds())) return;
  } while (!stands_still());
  const int rank = recorder_.rank();
  try {
    fs::create_directories(options_.directory);
    replace_file(file_of(options_.directory, rank), to_json(recorder_.summary()));
  } catch (const std::exception&) {
    // The others hear nothing of this rank, and it has only itself to speak of.
  }
  if (!sleep(look_seconds() + options_.answer_seconds)) return;
  std::vector<RankRecords> answers = read_answers(options_.directory, options_.world_size);
  if (!answers.empty() && answers.front().rank < rank && !sleep(kOthersPatience)) return;
  if (answers.empty()) answers.push_back(recorder_.summary());
  speak_(report_hang(answers, options_.world_size, options_.timeout, options_.directory));
}

}  // namespace trireme
