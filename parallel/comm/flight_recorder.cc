#include "parallel/comm/flight_recorder.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace trireme {

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string comm_op_name(CommOp op) {
  switch (op) {
    case CommOp::all_reduce: return "all_reduce";
    case CommOp::reduce_scatter: return "reduce_scatter";
    case CommOp::all_gather: return "all_gather";
    case CommOp::all_to_all: return "all_to_all";
    case CommOp::all_to_all_v: return "all_to_all_v";
    case CommOp::broadcast: return "broadcast";
    case CommOp::barrier: return "barrier";
    case CommOp::send: return "send";
    case CommOp::recv: return "recv";
  }
  return "?";
}

namespace {

bool is_transfer(CommOp op) { return op == CommOp::send || op == CommOp::recv; }

}  // namespace

FlightRecorder::FlightRecorder(int rank, int64_t capacity) : rank_(rank), capacity_(capacity) {
  TRIREME_CHECK(capacity >= 1);
}

void FlightRecorder::set_step(int64_t step) {
  std::lock_guard lock(mutex_);
  step_ = step;
}

void FlightRecorder::set_members(const std::string& group, std::vector<int> ranks) {
  std::lock_guard lock(mutex_);
  groups_[group] = std::move(ranks);
}

int64_t FlightRecorder::add(FlightRecord record) {
  record.called = monotonic_seconds();
  std::lock_guard lock(mutex_);
  record.id = next_id_++;
  record.step = step_;
  const int64_t id = record.id;
  const auto place = static_cast<size_t>(id % capacity_);
  if (place >= ring_.size()) {
    ring_.push_back(std::move(record));
  } else {
    ring_[place] = std::move(record);
  }
  return id;
}

FlightRecord* FlightRecorder::find(int64_t id) {
  const auto place = static_cast<size_t>(id % capacity_);
  return place < ring_.size() && ring_[place].id == id ? &ring_[place] : nullptr;
}

void FlightRecorder::mark_started(int64_t id, double seconds) {
  std::lock_guard lock(mutex_);
  if (FlightRecord* record = find(id)) record->started = seconds == kNow ? monotonic_seconds() : seconds;
}

void FlightRecorder::mark_finished(int64_t id, double seconds) {
  std::lock_guard lock(mutex_);
  if (FlightRecord* record = find(id)) record->finished = seconds == kNow ? monotonic_seconds() : seconds;
}

std::vector<FlightRecord> FlightRecorder::records() const {
  std::lock_guard lock(mutex_);
  std::vector<FlightRecord> out;
  for (const FlightRecord& record : ring_) {
    if (record.id >= 0) out.push_back(record);
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

RankRecords FlightRecorder::summary(int64_t num_recent) const {
  const std::vector<FlightRecord> all = records();
  std::map<std::tuple<std::string, int, int>, int64_t> last;  // (group, transfer or collective, peer) -> id
  for (const FlightRecord& r : all) {
    const bool transfer = is_transfer(r.op);
    last[{r.group, transfer ? static_cast<int>(r.op) : -1, transfer ? r.peer : -1}] = r.id;
  }
  std::set<int64_t> kept;
  for (const auto& [what, id] : last) kept.insert(id);
  RankRecords out{.rank = rank_};
  for (size_t i = 0; i < all.size(); ++i) {
    const bool recent = all.size() - i <= static_cast<size_t>(std::max<int64_t>(num_recent, 0));
    if (recent || !all[i].is_finished() || kept.contains(all[i].id)) out.records.push_back(all[i]);
  }
  std::lock_guard lock(mutex_);
  out.groups = groups_;
  return out;
}

double FlightRecorder::waiting_seconds() const {
  const double now = monotonic_seconds();
  double longest = 0;
  std::lock_guard lock(mutex_);
  for (const FlightRecord& record : ring_) {
    if (record.id >= 0 && !record.is_finished()) longest = std::max(longest, now - record.called);
  }
  return longest;
}

int64_t FlightRecorder::num_records() const {
  std::lock_guard lock(mutex_);
  return next_id_;
}

void FlightRecorder::clear() {
  std::lock_guard lock(mutex_);
  for (FlightRecord& record : ring_) record.id = -1;
}

namespace {

std::string line_of(const FlightRecord& r, double now) {
  std::string peer;
  if (r.op == CommOp::send) peer = " to " + std::to_string(r.peer);
  if (r.op == CommOp::recv) peer = " from " + std::to_string(r.peer);
  if (r.op == CommOp::broadcast) peer = " from " + std::to_string(r.peer);
  const bool finished = r.is_finished();
  char times[96];
  std::snprintf(times, sizeof times, "%s, called %.3f s ago, %.6f s", finished ? "done" : "UNFINISHED", now - r.called,
                (finished ? r.finished : now) - r.called);
  return "step " + std::to_string(r.step) + " " + r.group + " (" + std::to_string(r.group_rank) + " of " +
         std::to_string(r.group_size) + ") #" + std::to_string(r.sequence) + " " + comm_op_name(r.op) + peer + ", " +
         std::to_string(r.bytes) + " bytes, " + times +
         (!finished && r.started == FlightRecord::kNotYet ? ", behind an earlier call\n" : "\n");
}

}  // namespace

std::string FlightRecorder::dump(int64_t num_finished) const {
  const std::vector<FlightRecord> all = records();
  const double now = monotonic_seconds();
  std::string out = "rank " + std::to_string(rank_) + ":\n";
  std::vector<const FlightRecord*> finished;
  for (const FlightRecord& record : all) {
    if (!record.is_finished()) {
      out += "  " + line_of(record, now);
    } else {
      finished.push_back(&record);
    }
  }
  const auto keep = std::min<size_t>(finished.size(), static_cast<size_t>(std::max<int64_t>(num_finished, 0)));
  for (size_t i = finished.size() - keep; i < finished.size(); ++i) out += "  " + line_of(*finished[i], now);
  return out;
}

namespace {

// What one member of a group has done there so far.
struct Member {
  int rank = 0;
  int64_t last_collective = -1;
  std::map<std::pair<CommOp, int>, int64_t> last_transfer;  // (send or recv, peer) -> sequence
};

struct Group {
  std::string name;
  int size = 0;
  std::vector<int> ranks;         // of the world; empty: unknown
  std::map<int, Member> members;  // by group rank
  std::vector<FlightRecord> unfinished;
};

using Groups = std::map<std::pair<std::string, std::vector<int>>, Group>;

Groups groups_of(const std::vector<RankRecords>& ranks) {
  Groups groups;
  for (const RankRecords& r : ranks) {
    for (const FlightRecord& record : r.records) {
      const auto known = r.groups.find(record.group);
      const std::vector<int> members = known == r.groups.end() ? std::vector<int>{} : known->second;
      Group& group = groups[{record.group, members}];
      group.name = record.group;
      group.size = record.group_size;
      group.ranks = members;
      Member& member = group.members[record.group_rank];
      member.rank = r.rank;
      if (is_transfer(record.op)) {
        auto [place, added] = member.last_transfer.emplace(std::pair{record.op, record.peer}, record.sequence);
        place->second = std::max(place->second, record.sequence);
      } else {
        member.last_collective = std::max(member.last_collective, record.sequence);
      }
      if (!record.is_finished()) group.unfinished.push_back(record);
    }
  }
  return groups;
}

std::string name_of(const Group& group, int group_rank) {
  const auto place = static_cast<size_t>(group_rank);
  if (place < group.ranks.size()) return "rank " + std::to_string(group.ranks[place]);
  const auto member = group.members.find(group_rank);
  if (member == group.members.end()) return "group rank " + std::to_string(group_rank);
  return "rank " + std::to_string(member->second.rank);
}

std::string report_transfer(const Group& group, const FlightRecord& record) {
  const auto peer = group.members.find(record.peer);
  const CommOp other = record.op == CommOp::send ? CommOp::recv : CommOp::send;
  int64_t last = -1;
  if (peer != group.members.end()) {
    const auto found = peer->second.last_transfer.find({other, record.group_rank});
    if (found != peer->second.last_transfer.end()) last = found->second;
  }
  std::string text = "group " + group.name + ": " + name_of(group, record.group_rank) + " waits in " +
                     comm_op_name(record.op) + " #" + std::to_string(record.sequence) +
                     (record.op == CommOp::send ? " to " : " from ") + name_of(group, record.peer);
  text += last >= record.sequence
              ? "; both sides have called\n"
              : "; late: " + name_of(group, record.peer) + " has not posted the " + comm_op_name(other) + "\n";
  return text;
}

}  // namespace

std::string late_rank_report(const std::vector<RankRecords>& ranks) {
  std::string out;
  for (const auto& [key, group] : groups_of(ranks)) {
    const FlightRecord* oldest = nullptr;  // the unfinished collective that the group is stuck in
    for (const FlightRecord& record : group.unfinished) {
      if (is_transfer(record.op)) {
        out += report_transfer(group, record);
      } else if (oldest == nullptr || record.sequence < oldest->sequence) {
        oldest = &record;
      }
    }
    if (oldest == nullptr) continue;
    std::string late;
    for (int r = 0; r < group.size; ++r) {
      const auto member = group.members.find(r);
      const int64_t last = member == group.members.end() ? -1 : member->second.last_collective;
      if (last >= oldest->sequence) continue;
      late += (late.empty() ? "" : ", ") + name_of(group, r) +
              (last < 0 ? " (no call known)" : " (last call #" + std::to_string(last) + ")");
    }
    out += "group " + group.name + ": " + comm_op_name(oldest->op) + " #" + std::to_string(oldest->sequence) +
           " is unfinished; " + (late.empty() ? "all ranks have called" : "late: " + late) + "\n";
  }
  return out;
}

}  // namespace trireme
