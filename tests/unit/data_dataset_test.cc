// Datasets and the loader, on corpora whose tokens say where they stand.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "core/data/bounded_queue.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/formats/megatron.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::message_of;
using testing::TempDir;

constexpr int64_t kVocabulary = 1 << 20;

// Documents of the given lengths; token t of the file has id first_id + t.
std::string make_corpus(const TempDir& dir, const std::string& name, const std::vector<int64_t>& lengths,
                        int32_t first_id = 0) {
  MegatronWriter writer(dir / name, TokenDType::i32);
  for (const int64_t length : lengths) {
    std::vector<int32_t> ids(static_cast<size_t>(length));
    std::iota(ids.begin(), ids.end(), first_id);
    first_id += static_cast<int32_t>(length);
    writer.append(ids);
    writer.end_document();
  }
  writer.finish();
  return dir / name;
}

DatasetOptions options_of(const std::vector<DataSourceSpec>& train, int64_t sequence_length) {
  DatasetOptions options;
  options.train = train;
  options.sequence_length = sequence_length;
  options.vocab_size = kVocabulary;
  options.seed = 1;
  return options;
}

struct Sample {
  std::vector<int32_t> tokens, labels, positions, document_start;
};

Sample read(const Dataset& dataset, int64_t i) {
  const auto length = static_cast<size_t>(dataset.sequence_length());
  Sample s{std::vector<int32_t>(length, -7), std::vector<int32_t>(length, -7), std::vector<int32_t>(length, -7),
           std::vector<int32_t>(length, -7)};
  dataset.read(i, {s.tokens, s.labels, s.positions, s.document_start});
  return s;
}

TEST(Dataset, EachEpochHasEveryWindowOnce) {
  const TempDir dir;
  // 60 tokens, T = 7: windows need tokens w·7 … w·7+7, so (60-1)/7 = 8 of them.
  const Dataset dataset(options_of({{make_corpus(dir, "a", {25, 0, 35})}}, 7), Split::train);
  EXPECT_EQ(dataset.num_windows(), 8);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<int32_t> firsts;
    for (int64_t i = 0; i < 8; ++i) {
      const Sample s = read(dataset, epoch * 8 + i);
      for (size_t t = 0; t < 7; ++t) {
        ASSERT_EQ(s.tokens[t], s.tokens[0] + static_cast<int32_t>(t));
        ASSERT_EQ(s.labels[t], s.tokens[t] + 1);
        ASSERT_EQ(s.positions[t], static_cast<int32_t>(t));
        ASSERT_EQ(s.document_start[t], 0);
      }
      firsts.push_back(s.tokens[0]);
      EXPECT_EQ(dataset.locate(epoch * 8 + i).epoch, epoch);
    }
    orders.push_back(firsts);
    std::sort(firsts.begin(), firsts.end());
    EXPECT_EQ(firsts, (std::vector<int32_t>{0, 7, 14, 21, 28, 35, 42, 49}));
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
}

TEST(Dataset, IsAPureFunctionOfSeedAndSample) {
  const TempDir dir;
  DatasetOptions options =
      options_of({{make_corpus(dir, "a", {5000})}, {make_corpus(dir, "b", {3000}, 5000), 0.5}}, 16);
  const Dataset one(options, Split::train);
  const Dataset again(options, Split::train);
  options.seed = 2;
  const Dataset other(options, Split::train);
  int same = 0;
  for (int64_t i = 499; i >= 0; --i) {
    ASSERT_EQ(read(one, i).tokens, read(again, i).tokens);
    same += read(one, i).tokens == read(other, i).tokens ? 1 : 0;
  }
  EXPECT_LT(same, 20);
}

// The smallest data: exactly T+1 tokens are one window; one less is an error with the remedy.
TEST(Dataset, SequenceLongerThanTheData) {
  const TempDir dir;
  const std::string path = make_corpus(dir, "a", {4, 5});
  EXPECT_EQ(Dataset(options_of({{path}}, 8), Split::train).num_windows(), 1);
  const std::string message = message_of<DataError>([&] { Dataset(options_of({{path}}, 9), Split::train); });
  EXPECT_CONTAINS(message, "the sequence is longer than the training data");
  EXPECT_CONTAINS(message,
                  "expected at least 10 tokens for data.sequence_length 9, found 9 tokens) at " + path + ".bin");
  EXPECT_CONTAINS(message, "data.sequence_length of at most 8");
  DatasetOptions options = options_of({{path}}, 4);
  options.valid_fraction = 0.5;  // documents of 4 and 5 tokens
  EXPECT_CONTAINS(message_of<DataError>([&] { Dataset(options, Split::train); }), "a smaller data.valid_fraction");
  options.sequence_length = 5;
  EXPECT_CONTAINS(message_of<DataError>([&] { Dataset(options, Split::valid); }), "a larger data.valid_fraction");
}

TEST(Dataset, SplitsAtTheLastDocuments) {
  const TempDir dir;
  std::vector<int64_t> lengths(100, 3);
  lengths[70] = 50;
  const auto source = open_token_source(make_corpus(dir, "a", lengths));
  EXPECT_EQ(split_point(*source, 0.29), source->document_begin(71));
  EXPECT_EQ(split_point(*source, 0.3), source->document_begin(70));
  EXPECT_EQ(split_point(*source, 0.01), source->document_begin(99));
  EXPECT_EQ(split_point(*source, 0.019), source->document_begin(99));
  EXPECT_EQ(split_point(*source, 0.999), source->document_begin(1));
  // Less than one document: the last tokens.
  EXPECT_EQ(split_point(*source, 0.005), 347 - 2);
  const auto single = open_token_source(make_corpus(dir, "b", {1000}));
  EXPECT_EQ(split_point(*single, 0.02), 980);
}

// Training and validation share no token, labels included, and leave out only ends too short for a window.
TEST(Dataset, TrainAndValidationShareNothing) {
  const TempDir dir;
  uint64_t random = 12345;
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<int64_t> lengths;
    for (int d = 0; d < 1 + trial * 2; ++d) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      lengths.push_back(20 + static_cast<int64_t>((random >> 33) % 60));
    }
    DatasetOptions options = options_of({{make_corpus(dir, "a" + std::to_string(trial), lengths)}}, 5);
    options.valid_fraction = 0.3;
    const Dataset train(options, Split::train);
    const Dataset valid(options, Split::valid);
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    EXPECT_EQ(train.num_tokens() + valid.num_tokens(), total);
    std::map<int32_t, int> owner;
    for (int part = 0; part < 2; ++part) {
      const Dataset& dataset = part == 0 ? train : valid;
      for (int64_t i = 0; i < dataset.num_windows(); ++i) {
        const Sample s = read(dataset, i);
        for (const auto& ids : {s.tokens, s.labels}) {
          for (const int32_t id : ids) {
            const auto [place, fresh] = owner.emplace(id, part);
            ASSERT_TRUE(fresh || place->second == part) << "token " << id;
          }
        }
      }
    }
    EXPECT_GT(static_cast<int64_t>(owner.size()), total - 2 * 5 - 1);
  }
}

TEST(Dataset, ValidationFromFilesOfItsOwn) {
  const TempDir dir;
  DatasetOptions options = options_of({{make_corpus(dir, "a", {100})}}, 9);
  options.valid_fraction = 0.5;  // not looked at
  options.valid = {{make_corpus(dir, "v", {50}, 1000)}};
  EXPECT_EQ(Dataset(options, Split::train).num_windows(), 11);
  const Dataset valid(options, Split::valid);
  EXPECT_EQ(valid.num_windows(), 5);
  EXPECT_GE(read(valid, 0).tokens[0], 1000);
}

TEST(Dataset, BlendsWithEachSourcesOwnEpochs) {
  const TempDir dir;
  const Dataset dataset(
      options_of({{make_corpus(dir, "a", {41}), 0.75}, {make_corpus(dir, "b", {201}, 1000), 0.25}}, 4), Split::train);
  ASSERT_EQ(dataset.num_windows(0), 10);
  ASSERT_EQ(dataset.num_windows(1), 50);
  std::map<int32_t, int> seen;
  for (int64_t i = 0; i < 200; ++i) ++seen[read(dataset, i).tokens[0]];
  for (const auto& [first, count] : seen) EXPECT_EQ(count, first < 1000 ? 15 : 1) << first;  // 150 / 10 and 50 / 50
  EXPECT_EQ(seen.size(), 60u);
}

TEST(Dataset, MasksDocuments) {
  const TempDir dir;
  // Documents begin at 0, 6, 6 (empty), 9, 10, 30.
  DatasetOptions options = options_of({{make_corpus(dir, "a", {6, 0, 3, 1, 20, 7})}}, 8);
  options.mask_documents = true;
  const Dataset dataset(options, Split::train);
  ASSERT_EQ(dataset.num_windows(), 4);
  std::map<int32_t, Sample> by_first;
  for (int64_t i = 0; i < 4; ++i) {
    const Sample s = read(dataset, i);
    by_first[s.tokens[0]] = s;
    for (size_t t = 0; t < 8; ++t) EXPECT_EQ(s.labels[t], s.tokens[t] + 1);  // across documents too
  }
  using Row = std::vector<int32_t>;
  EXPECT_EQ(by_first[0].document_start, (Row{0, 0, 0, 0, 0, 0, 6, 6}));
  EXPECT_EQ(by_first[0].positions, (Row{0, 1, 2, 3, 4, 5, 0, 1}));
  EXPECT_EQ(by_first[8].document_start, (Row{0, 1, 2, 2, 2, 2, 2, 2}));
  EXPECT_EQ(by_first[8].positions, (Row{0, 0, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(by_first[16].document_start, (Row{0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(by_first[16].positions, (Row{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(by_first[24].document_start, (Row{0, 0, 0, 0, 0, 0, 6, 6}));
}

TEST(Dataset, NamesAnIdOutsideTheVocabulary) {
  const TempDir dir;
  const std::string path = make_corpus(dir, "a", {17});
  DatasetOptions options = options_of({{path}}, 16);
  options.vocab_size = 17;
  EXPECT_EQ(read(Dataset(options, Split::train), 0).labels[15], 16);
  options.vocab_size = 16;  // only the last label is outside
  const Dataset dataset(options, Split::train);
  EXPECT_CONTAINS(message_of<DataError>([&] { read(dataset, 0); }),
                  "expected 0 <= id < 16, found 16) at " + path + ".bin, token 16 (byte 64)");
}

TEST(Dataset, RefusesOptions) {
  const TempDir dir;
  const std::string path = make_corpus(dir, "a", {100});
  const auto error = [&](auto change, Split split = Split::train) {
    DatasetOptions options = options_of({{path}}, 8);
    change(options);
    return message_of<ConfigError>([&] { Dataset(options, split); });
  };
  EXPECT_CONTAINS(error([](DatasetOptions& o) { o.train.clear(); }), "data.train");
  EXPECT_CONTAINS(error([](DatasetOptions& o) { o.sequence_length = 0; }), "data.sequence_length");
  EXPECT_CONTAINS(error([](DatasetOptions& o) { o.vocab_size = 0; }), "model.vocab_size");
  EXPECT_CONTAINS(error([](DatasetOptions& o) { o.valid_fraction = 1; }), "data.valid_fraction");
  EXPECT_CONTAINS(error([](DatasetOptions& o) { o.train[0].weight = 0; }), "weight");
  EXPECT_CONTAINS(error([](DatasetOptions&) {}, Split::valid), "there is no validation data");
}

TEST(BoundedQueue, GivesTheErrorAfterTheItems) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.push(1));
  EXPECT_TRUE(queue.push(2));
  queue.finish(std::make_exception_ptr(DataError({.what = "late"})));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), 2);
  EXPECT_EQ(message_of<DataError>([&] { queue.pop(); }), "late");
}

TEST(BoundedQueue, CancelReleasesAWaitingProducer) {
  BoundedQueue<int> queue(1);
  bool accepted = true;
  std::thread producer([&] {
    queue.push(1);
    accepted = queue.push(2);  // full: waits
  });
  queue.cancel();
  producer.join();
  EXPECT_FALSE(accepted);
}

struct LoaderCase {
  TempDir dir;
  Dataset dataset{options_of({{make_corpus(dir, "a", {1000})}}, 8), Split::train};
};

TEST(Loader, GivesTheSamplesOfThePlan) {
  const LoaderCase c;
  const BatchPlan plan({.global = 12, .micro = 2, .data_degree = 3, .ramp = BatchRamp{6, 6, 20}});
  for (int64_t rank = 0; rank < 3; ++rank) {
    Loader loader(c.dataset, plan, {.data_rank = rank, .first_step = 2, .end_step = 7});
    for (int64_t step = 2; step < 7; ++step) {
      for (int64_t j = 0; j < plan.num_microbatches(step); ++j) {
        const auto batch = loader.next();
        ASSERT_TRUE(batch);
        EXPECT_EQ(batch->step, step);
        EXPECT_EQ(batch->microbatch, j);
        EXPECT_EQ(batch->num_valid_labels, 16);
        EXPECT_EQ(batch->tokens.shape(), (Shape{2, 8}));
        for (int64_t row = 0; row < 2; ++row) {
          const Sample s = read(c.dataset, plan.first_sample(step, j, rank) + row);
          const auto expect_row = [&](const Tensor& tensor, const std::vector<int32_t>& expected) {
            const int32_t* data = tensor.data<int32_t>() + row * 8;
            EXPECT_EQ(std::vector<int32_t>(data, data + 8), expected);
          };
          expect_row(batch->tokens, s.tokens);
          expect_row(batch->labels, s.labels);
          expect_row(batch->positions, s.positions);
          expect_row(batch->document_start, s.document_start);
        }
      }
    }
    EXPECT_FALSE(loader.next());
    EXPECT_FALSE(loader.next());
    EXPECT_GE(loader.waited_seconds(), 0.0);
  }
}

TEST(Loader, UsesItsBuffersAgain) {
  const LoaderCase c;
  const BatchPlan plan({.global = 4, .micro = 2});
  Loader loader(c.dataset, plan, {.prefetch = 3});
  std::optional<HostBatch> kept = loader.next();
  const std::vector<int32_t> before(kept->tokens.data<int32_t>(), kept->tokens.data<int32_t>() + 16);
  for (int i = 0; i < 500; ++i) loader.next();
  // 3 in the queue, one being read, one at the caller, and the kept one.
  EXPECT_LE(loader.num_buffers(), 6);
  EXPECT_EQ(std::vector<int32_t>(kept->tokens.data<int32_t>(), kept->tokens.data<int32_t>() + 16), before);
}

TEST(Loader, BatchesOutliveIt) {
  const LoaderCase c;
  std::optional<HostBatch> batch;
  {
    Loader loader(c.dataset, BatchPlan({.global = 2, .micro = 2}), {});
    batch = loader.next();
  }
  EXPECT_EQ(batch->labels.data<int32_t>()[0], batch->tokens.data<int32_t>()[0] + 1);
}

// The error comes after the batches before it, and again if asked again.
TEST(Loader, ThrowsTheReadersErrorInItsPlace) {
  const TempDir dir;
  DatasetOptions options = options_of({{make_corpus(dir, "a", {81})}}, 8);
  options.vocab_size = 80;  // only the last window has a label of 80
  const Dataset dataset(options, Split::train);
  int64_t bad = 0;
  while (dataset.locate(bad).window != 9) ++bad;
  Loader loader(dataset, BatchPlan({.global = 1, .micro = 1}), {});
  for (int64_t i = 0; i < bad; ++i) ASSERT_TRUE(loader.next());
  for (int repeat = 0; repeat < 2; ++repeat) {
    EXPECT_CONTAINS(message_of<DataError>([&] { loader.next(); }), "found 80) at " + (dir / "a.bin"));
  }
}

}  // namespace
}  // namespace trireme
