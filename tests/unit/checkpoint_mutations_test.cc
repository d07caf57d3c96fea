// Random damage to a checkpoint. Every changed byte is found, by `verify` and by loading what it touches, and named; nothing
// else than a DataError comes of it, and no tensor that loads has other values than were saved.
//
// 500 mutations, 10,000 with TRIREME_TEST_ALL=1. TRIREME_MUTATION_SEED draws others, TRIREME_MUTATION_COUNT more.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint/reader.h"
#include "tests/saved_model.h"
#include "tests/training.h"
#include "tests/unit/data_testing.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace trireme {
namespace {

using testing::read_file;
using testing::write_file;

constexpr const char* kManifest = "manifest.json";

int64_t number_from(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::atoll(text) : otherwise;
}

// What a mutation did.
struct Damage {
  std::string what;                  // for messages
  std::vector<std::string> changed;  // files
  std::vector<std::string> parts;    // what a message that names one of them must say, each
};

// In memory where there is such a place: the disk would be the slowest part by far.
struct FastDir {
  FastDir() {
    std::string pattern = fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string();
    pattern += "/trireme_test_XXXXXX";
    path = mkdtemp(pattern.data());
  }
  ~FastDir() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string path;
};

constexpr int kNumParts = 4;  // of the mutations, which run side by side

class Mutations : public ::testing::TestWithParam<int> {
 protected:
  // Two files of two chunks each.
  static void SetUpTestSuite() {
    shared_ = std::make_unique<Shared>();
    const testing::TempDir unused;
    const Config config = parse_config(testing::tiny_yaml(unused, 1), "test",
                                       {"model.vocab_size=11500", "model.hidden_size=32", "parallel.zero=1",
                                        "model.num_attention_heads=2", "model.num_key_value_heads=2"});
    testing::run_saving_ranks(config, 2, {.run_dir = shared_->dir.path},
                              [](const testing::SavingRank& rank) { ASSERT_EQ(rank.save(7), ""); });
    shared_->path = checkpoint_path(shared_->dir.path, 7);
    const CheckpointReader reader(shared_->path);
    for (const StoredTensor& tensor : reader.manifest().tensors) {
      std::vector<std::byte>& bytes = shared_->tensors[tensor.name];
      bytes.resize(static_cast<size_t>(tensor.bytes()));
      reader.read_raw(tensor, Box::whole(tensor.shape), bytes);
    }
    for (const auto& entry : fs::directory_iterator(shared_->path)) {
      shared_->files[entry.path().filename()] = read_file(entry.path());
    }
    ASSERT_EQ(shared_->files.size(), 3u);
    for (const auto& [name, bytes] : shared_->files) {
      if (name == kManifest) continue;
      shared_->shards.push_back(name);
      ASSERT_GT(static_cast<int64_t>(bytes.size()), kHashChunkBytes + 1000) << name;
    }
  }
  static void TearDownTestSuite() { shared_.reset(); }

  void SetUp() override {
    seed_ = number_from("TRIREME_MUTATION_SEED", 1);
    random_.seed(static_cast<uint64_t>(seed_ * kNumParts + GetParam()));
  }
  static int64_t num_mutations() {
    return number_from("TRIREME_MUTATION_COUNT", number_from("TRIREME_TEST_ALL", 0) != 0 ? 10'000 : 500);
  }

  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  template <class List>
  const auto& any_of(const List& list) {
    return list[below(list.size())];
  }
  static std::string place(const std::string& file) { return shared_->path + "/" + file; }
  const std::string& any_shard() { return any_of(shared_->shards); }

  void overwrite(const std::string& file, size_t at, std::string_view bytes) {
    std::fstream out(place(file), std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(at));
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  static Damage of_chunk(const std::string& what, const std::string& file, size_t at) {
    const size_t chunk = at / static_cast<size_t>(kHashChunkBytes);
    return {
        what + " at " + std::to_string(at), {file}, {"chunk " + std::to_string(chunk) + " ", "expected hash", "found"}};
  }

  Damage flip_bit(const std::string& file);
  Damage write_over();
  Damage copy_within();
  Damage change_length(const std::string& file);
  Damage swap_files();
  Damage swap_chunks();
  Damage replace_file(const std::string& file);
  Damage edit_manifest(bool renew_hash);
  Damage mutate();

  // A random other value in the place of `value`.
  json other_value(const json& value);
  void expect_found(const Damage& damage);
  void expect_nothing_silent();
  void restore(const Damage& damage);

  struct Shared {
    FastDir dir;
    std::string path;
    std::map<std::string, std::vector<std::byte>> tensors;
    std::map<std::string, std::string> files;
    std::vector<std::string> shards;
  };
  static inline std::unique_ptr<Shared> shared_;
  int64_t seed_ = 0;
  std::mt19937_64 random_;
};

Damage Mutations::flip_bit(const std::string& file) {
  const std::string& bytes = shared_->files.at(file);
  const size_t at = below(bytes.size());
  overwrite(file, at, std::string(1, static_cast<char>(bytes[at] ^ (1 << below(8)))));
  if (file == kManifest) return {"a flipped bit at " + std::to_string(at), {file}, {}};
  return of_chunk("a flipped bit", file, at);
}

Damage Mutations::write_over() {
  const std::string& file = any_shard();
  const std::string& bytes = shared_->files.at(file);
  const size_t at = below(bytes.size());
  const size_t n = std::min(bytes.size() - at, 1 + below(5000));
  std::string other(n, '\0');
  if (below(2) == 0) {
    for (char& c : other) c = static_cast<char>(below(256));
  }
  if (bytes.compare(at, n, other) == 0) other[0] = static_cast<char>(other[0] + 1);
  overwrite(file, at, other);
  Damage damage = of_chunk(std::to_string(n) + " other bytes", file, at);
  damage.parts.erase(damage.parts.begin());  // it may be the next chunk
  return damage;
}

Damage Mutations::copy_within() {
  const std::string& file = any_shard();
  const std::string& bytes = shared_->files.at(file);
  const size_t n = 4096;
  const size_t from = below(bytes.size() - n), to = below(bytes.size() - n);
  if (bytes.compare(from, n, bytes, to, n) == 0) return flip_bit(file);
  overwrite(file, to, std::string_view(bytes).substr(from, n));
  return {"a page of " + std::to_string(from) + " at " + std::to_string(to), {file}, {"expected hash", "found"}};
}

Damage Mutations::change_length(const std::string& file) {
  const std::string& bytes = shared_->files.at(file);
  const size_t length = below(2) == 0 ? below(bytes.size()) : bytes.size() + 1 + below(10'000);
  fs::resize_file(place(file), length);
  if (file == kManifest || length == 0) return {"cut to " + std::to_string(length), {file}, {}};
  return {std::to_string(length) + " bytes long",
          {file},
          {"expected " + std::to_string(bytes.size()), "found " + std::to_string(length)}};
}

Damage Mutations::swap_files() {
  const std::string& a = shared_->shards[0];
  const std::string& b = shared_->shards[1];
  fs::rename(place(a), place("x"));
  fs::rename(place(b), place(a));
  fs::rename(place("x"), place(b));
  return {"swapped files", {a, b}, {"expected", "found"}};
}

Damage Mutations::swap_chunks() {
  const std::string& file = any_shard();
  const std::string_view bytes = shared_->files.at(file);
  const auto chunk = static_cast<size_t>(kHashChunkBytes);
  const size_t n = std::min(chunk, bytes.size() - chunk);
  overwrite(file, 0, bytes.substr(chunk, n));
  overwrite(file, chunk, bytes.substr(0, n));
  return {"swapped chunks", {file}, {"chunk ", "expected hash", "found"}};
}

Damage Mutations::replace_file(const std::string& file) {
  fs::remove(place(file));
  switch (below(3)) {
    case 0: fs::create_directory(place(file)); return {"a directory in its place", {file}, {}};
    case 1: write_file(place(file), ""); return {"emptied", {file}, {}};
    default: return {"missing", {file}, {}};
  }
}

json Mutations::other_value(const json& value) {
  static const std::vector<json> kStrange = {json(-1),
                                             json(0),
                                             json(1),
                                             json(1LL << 31),
                                             json((1LL << 60) - 1),
                                             json(1LL << 62),
                                             json(~uint64_t{0}),
                                             json(1e300),
                                             json(0.5),
                                             json(nullptr),
                                             json(true),
                                             json(""),
                                             json("../../etc"),
                                             json("a\0b"),
                                             json(std::string(3000, 'x')),
                                             json::array(),
                                             json::object(),
                                             json::array({1, 2, 3, 4}),
                                             json("manifest.json"),
                                             json("BF16"),
                                             json("F64"),
                                             json("rank-00001.safetensors"),
                                             json("optimizer.first_moment.lm_head.weight")};
  if (value.is_number_integer() && below(2) == 0) {
    const auto number = value.get<int64_t>();
    const std::vector<int64_t> near{number - 1, number + 1,  number + 4, number - 4,
                                    number * 2, -number - 1, number / 2};
    return any_of(near) == number ? json(number + 1) : json(any_of(near));
  }
  if (value.is_array() && !value.empty() && below(2) == 0) {
    json other = value;
    if (below(2) == 0) {
      other.erase(below(other.size()));
    } else {
      other.push_back(other[below(other.size())]);
    }
    return other;
  }
  return any_of(kStrange);
}

// One value of the files or tensors is another. With the right hash of itself it is no longer damage but a lie; the
// contradictions with the rest of the manifest, or with the files, give it away.
Damage Mutations::edit_manifest(bool renew_hash) {
  const std::string& text = shared_->files.at(kManifest);
  const json old_root = json::parse(text);
  json root = old_root;
  std::string where;
  while (root == old_root) {
    json* at = &root;
    where = below(4) == 0 ? "files" : "tensors";
    at = &root[where];
    // Down to a leaf, or to a list on the way.
    while (at->is_structured() && !at->empty() && (at->size() > 4 || below(8) != 0)) {
      auto item = at->begin();
      std::advance(item, static_cast<std::ptrdiff_t>(below(at->size())));
      where += at->is_object() ? "." + item.key() : "[" + std::to_string(item - at->begin()) + "]";
      at = &*item;
    }
    const json old = *at;
    *at = other_value(old);
    where += ": " + old.dump().substr(0, 60) + " became " +
             at->dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60);
  }
  root.erase("hash");
  std::string other = root.dump(-1, ' ', false, json::error_handler_t::replace);
  const std::string begin = "{\"hash\":\"";
  const std::string hash = renew_hash ? std::string(16, '0') : text.substr(begin.size(), 16);
  other = begin + hash + "\"," + other.substr(1);
  if (renew_hash) other.replace(begin.size(), 16, hash_text(hash_bytes(other.data(), other.size())));
  write_file(place(kManifest), other);
  if (!renew_hash) return {where, {kManifest}, {"expected hash", "found"}};
  return {where + ", hash renewed", {kManifest}, {}};
}

Damage Mutations::mutate() {
  switch (below(14)) {
    case 0:
    case 1:
    case 2: return flip_bit(any_shard());
    case 3: return write_over();
    case 4: return copy_within();
    case 5: return change_length(any_shard());
    case 6: return below(2) == 0 ? swap_files() : swap_chunks();
    case 7: return replace_file(any_shard());
    case 8: return flip_bit(kManifest);
    case 9: return below(4) == 0 ? replace_file(kManifest) : change_length(kManifest);
    case 10: return edit_manifest(/*renew_hash=*/false);
    default: return edit_manifest(/*renew_hash=*/true);
  }
}

void Mutations::expect_found(const Damage& damage) {
  std::vector<std::string> messages;
  try {
    messages = CheckpointReader::verify(shared_->path);
  } catch (const DataError& error) {
    messages = {error.what()};
  }
  const auto contains = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  // A lie of the manifest is named where it comes out.
  const bool lies = damage.what.find("renewed") != std::string::npos;
  const bool named = std::any_of(messages.begin(), messages.end(), [&](const std::string& message) {
    return std::any_of(damage.changed.begin(), damage.changed.end(),
                       [&](const auto& f) { return contains(message, lies ? shared_->path : f); }) &&
           std::all_of(damage.parts.begin(), damage.parts.end(),
                       [&](const auto& part) { return contains(message, part); });
  });
  if (messages.empty()) {
    // What isn't the checkpoint's state any more needs no guard: only a lie about names gets here, and `load` asks for names.
    EXPECT_TRUE(lies && damage.what.find(".name: ") != std::string::npos) << "not found by verify";
    return;
  }
  EXPECT_TRUE(named) << "not named as it should be: " << messages.front();
}

void Mutations::expect_nothing_silent() {
  int num_errors = 0;
  try {
    const CheckpointReader reader(shared_->path);
    for (const auto& [name, expected] : shared_->tensors) {
      try {
        const StoredTensor& tensor = reader.tensor(name);
        std::vector<std::byte> found(static_cast<size_t>(tensor.bytes()));
        reader.read_raw(tensor, Box::whole(tensor.shape), found);
        EXPECT_TRUE(found == expected) << name << " loads with other values";
      } catch (const DataError&) {
        ++num_errors;
      }
    }
  } catch (const DataError&) {
    ++num_errors;
  }
  EXPECT_GT(num_errors, 0) << "everything loads";
}

// Writes what differs only: thousands of whole files would keep the disk busy.
void Mutations::restore(const Damage& damage) {
  for (const std::string& name : damage.changed) {
    const std::string& bytes = shared_->files.at(name);
    if (fs::is_directory(place(name))) fs::remove(place(name));
    std::string found = read_file(place(name));
    if (!fs::exists(place(name))) write_file(place(name), "");
    fs::resize_file(place(name), bytes.size());
    found.resize(bytes.size());
    const auto first =
        static_cast<size_t>(std::mismatch(bytes.begin(), bytes.end(), found.begin()).first - bytes.begin());
    const auto behind =
        static_cast<size_t>(std::mismatch(bytes.rbegin(), bytes.rend(), found.rbegin()).first - bytes.rbegin());
    if (first < bytes.size()) {
      overwrite(name, first, std::string_view(bytes).substr(first, bytes.size() - behind - first));
    }
  }
}

TEST_P(Mutations, AreFoundNamedAndNeverLoaded) {
  const int64_t count = (num_mutations() + kNumParts - 1) / kNumParts;
  for (int64_t i = 0; i < count && !HasFailure(); ++i) {
    const Damage damage = mutate();
    SCOPED_TRACE("mutation " + std::to_string(i) + " of TRIREME_MUTATION_SEED=" + std::to_string(seed_) + ": " +
                 damage.changed.front() + ", " + damage.what);
    expect_found(damage);
    expect_nothing_silent();
    restore(damage);
  }
  ASSERT_EQ(CheckpointReader::verify(shared_->path), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(Parts, Mutations, ::testing::Range(0, kNumParts));

}  // namespace
}  // namespace trireme
