#include "parallel/comm/host_engine.h"

#include <algorithm>
#include <future>
#include <utility>

namespace trireme {

namespace {

// How often to look for what no doorbell announces: at first soon, then rarely.
constexpr int64_t kFirstPollUs = 20;
constexpr int64_t kLastPollUs = 500;

[[noreturn]] void throw_as(ExitCode code, const std::string& message) {
  switch (code) {
    case ExitCode::bug: throw BugError({.what = message});
    case ExitCode::machine: throw MachineError({.what = message});
    default: throw PeerError({.what = message});
  }
}

}  // namespace

void HostCall::wait() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return done_; });
  if (error_code_) throw_as(*error_code_, error_);
}

bool HostCall::done() {
  std::lock_guard lock(mutex_);
  return done_;
}

void HostCall::finish() {
  call_ = {};
  staged_.reset();
  std::lock_guard lock(mutex_);
  done_ = true;
  wake_.notify_all();
}

void HostCall::fail(ExitCode code, const std::string& message) {
  call_ = {};
  std::lock_guard lock(mutex_);
  error_code_ = code;
  error_ = message;
  done_ = true;
  wake_.notify_all();
}

HostEngine::HostEngine(const std::function<void()>& at_start, std::function<void()> at_stop) {
  std::promise<void> started;
  std::future<void> result = started.get_future();
  thread_ = std::thread([this, &at_start, &started, stop = std::move(at_stop)] {
    try {
      at_start();
    } catch (...) {
      started.set_exception(std::current_exception());
      return;
    }
    started.set_value();
    loop();
    stop();
  });
  try {
    result.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

HostEngine::~HostEngine() {
  stop_.store(true);
  doorbell()->ring();
  thread_.join();
}

void HostEngine::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  doorbell()->ring();
}

void HostEngine::run(const std::function<void()>& task) {
  std::promise<void> finished;
  std::future<void> result = finished.get_future();
  post([&] {
    try {
      task();
      finished.set_value();
    } catch (...) {
      finished.set_exception(std::current_exception());
    }
  });
  result.get();
}

void HostEngine::add_group(const std::shared_ptr<HostGroup>& group) {
  post([this, group] { groups_.push_back(group); });
}

void HostEngine::remove_group(const std::shared_ptr<HostGroup>& group) {
  // The last call of the queue, if any, is the one to wait for.
  HostCallPtr last;
  run([&] {
    if (!group->calls.empty()) last = group->calls.back();
  });
  try {
    if (last) last->wait();
  } catch (const Error&) {
    // Its Work has told, or nobody asked.
  }
  run([&] { std::erase(groups_, group); });
}

void HostEngine::submit(const std::shared_ptr<HostGroup>& group, const HostCallPtr& call) {
  post([group, call] {
    if (group->failure.empty()) {
      group->calls.push_back(call);
    } else {
      call->fail(ExitCode::peer, "an earlier call on this group failed: " + group->failure);
    }
  });
}

void HostEngine::cancel(const std::shared_ptr<HostGroup>& group, const std::string& reason) {
  run([&] { fail_all(*group, ExitCode::peer, reason); });
}

void HostEngine::fail_all(HostGroup& group, ExitCode code, const std::string& message) {
  group.failure = message;
  group.current.reset();
  group.uploading = false;
  for (const HostCallPtr& call : group.calls) {
    call->fail(code, message);
    code = ExitCode::peer;
  }
  group.calls.clear();
}

bool HostEngine::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (const auto& task : tasks) task();
  return !tasks.empty();
}

bool HostEngine::advance(HostGroup& group) {
  if (group.calls.empty()) return false;
  HostCall& call = *group.calls.front();
  StagedCall* staged = call.staged();
  try {
    bool progress = false;
    if (!group.current) {
      if (staged != nullptr && !staged->downloaded()) return false;
      for (const int64_t id : call.call().record_ids) group.recorder->mark_started(id);
      group.current = group.transport->start(call.call());
      progress = true;
    }
    if (!group.uploading) {
      progress = group.current->step() || progress;
      if (!group.current->finished()) return progress;
      if (staged != nullptr) staged->upload();
      group.uploading = true;
    }
    if (staged != nullptr && !staged->uploaded()) return progress;
  } catch (const Error& error) {
    fail_all(group, error.code(), error.what());
    return true;
  } catch (const std::exception& error) {
    fail_all(group, ExitCode::bug, error.what());
    return true;
  }
  for (const int64_t id : call.call().record_ids) group.recorder->mark_finished(id);
  group.current.reset();
  group.uploading = false;
  const HostCallPtr finished = group.calls.front();
  group.calls.pop_front();
  finished->finish();
  return true;
}

// Whether the first call may get on without anybody ringing: over a network, or when a copy of the device ends.
bool HostEngine::needs_polling(const HostGroup& group) {
  if (group.calls.empty()) return false;
  const bool copies = group.calls.front()->staged() != nullptr && (!group.current || group.uploading);
  return copies || group.transport->needs_polling();
}

void HostEngine::loop() {
  int64_t poll_us = kFirstPollUs;
  while (!stop_.load()) {
    Doorbell* bell = doorbell();
    const uint32_t seen = bell->read();
    bool progress = run_posted();
    bool polls = false;
    for (const auto& group : groups_) {
      progress = advance(*group) || progress;
      polls = polls || needs_polling(*group);
    }
    if (progress) {
      poll_us = kFirstPollUs;
      continue;
    }
    if (stop_.load()) break;
    bell->wait(seen, polls ? poll_us : -1);
    poll_us = std::min(kLastPollUs, poll_us * 2);
  }
}

}  // namespace trireme
