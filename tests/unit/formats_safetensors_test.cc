// safetensors and the files below it: headers written by hand, and one file of the reference implementation.
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <vector>

#include "core/formats/safetensors.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::Bytes;
using testing::message_of;
using testing::TempDir;
using testing::write_file;

std::string safetensors(const std::string& header, const std::string& data) {
  return Bytes().put<uint64_t>(header.size()).text(header).text(data).data;
}

TEST(Safetensors, ReadsBytesWrittenByHand) {
  const TempDir dir;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[2],"data_offsets":[8,24]},)"
      R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"none":{"dtype":"F16","shape":[0,3],"data_offsets":[24,24]}}   )";
  write_file(dir / "m.safetensors",
             safetensors(header, Bytes().all<float>({1.5f, -2.0f}).all<int64_t>({-100, 7}).data));
  const SafetensorsReader reader(dir / "m.safetensors");
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "b", "none"}));
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.spec("a").shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(reader.spec("none").bytes(), 0);
  std::vector<float> a(2);
  reader.read("a", 0, a);
  EXPECT_EQ(a, (std::vector<float>{1.5f, -2.0f}));
  std::vector<int64_t> b(1);
  reader.read("b", 1, b);
  EXPECT_EQ(b[0], 7);
}

// The bytes of safetensors.torch.save({"w": [[1, 2], [3, -4.5]], "h": bf16 [1.5], "n": i64 [-100]},
// {"format": "pt"}), by the package of that name.
TEST(Safetensors, AgreesWithTheReferenceImplementation) {
  const TempDir dir;
  const std::string reference = safetensors(
      R"({"__metadata__":{"format":"pt"},"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("w":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"h":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]}}   )",
      Bytes().put<int64_t>(-100).all<float>({1, 2, 3, -4.5f}).put<uint16_t>(0x3FC0).data);
  ASSERT_EQ(reference.size(), 234u);
  write_file(dir / "theirs.safetensors", reference);
  const SafetensorsReader reader(dir / "theirs.safetensors");
  std::vector<float> w(3);
  reader.read("w", 1, w);
  EXPECT_EQ(w, (std::vector<float>{2, 3, -4.5f}));

  SafetensorsWriter writer(dir / "ours.safetensors",
                           {{"w", FileDType::f32, {2, 2}}, {"h", FileDType::bf16, {1}}, {"n", FileDType::i64, {1}}},
                           {{"format", "pt"}});
  for (const std::string& name : reader.names()) writer.write(name, reader.bytes(name));
  writer.finish();
  // Keys inside an entry come in another order; the data and the layout are the same.
  const SafetensorsReader ours(dir / "ours.safetensors");
  const std::string bytes = testing::read_file(dir / "ours.safetensors");
  EXPECT_EQ(bytes.substr(bytes.size() - 26), reference.substr(reference.size() - 26));
  EXPECT_EQ(ours.names(), reader.names());
  EXPECT_EQ(ours.spec("w").shape, reader.spec("w").shape);
  EXPECT_EQ(ours.metadata(), reader.metadata());
}

TEST(Safetensors, ConvertsEveryType) {
  const TempDir dir;
  // 1.5 in every float type: BF16 0x3FC0, F16 0x3E00.
  const std::string header =
      R"({"f64":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"bf16":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]},)"
      R"("f16":{"dtype":"F16","shape":[1],"data_offsets":[10,12]},"i32":{"dtype":"I32","shape":[1],"data_offsets":[12,16]},)"
      R"("u8":{"dtype":"U8","shape":[],"data_offsets":[16,17]},"bool":{"dtype":"BOOL","shape":[1],"data_offsets":[17,18]}})";
  write_file(dir / "m.safetensors", safetensors(header, Bytes()
                                                            .put(1.5)
                                                            .put<uint16_t>(0x3FC0)
                                                            .put<uint16_t>(0x3E00)
                                                            .put<int32_t>(-5)
                                                            .put<uint8_t>(200)
                                                            .put<uint8_t>(1)
                                                            .data));
  const SafetensorsReader reader(dir / "m.safetensors");
  for (const char* name : {"f64", "bf16", "f16"}) {
    std::vector<float> f(1);
    std::vector<double> d(1);
    reader.read(name, 0, f);
    reader.read(name, 0, d);
    EXPECT_EQ(f[0], 1.5f) << name;
    EXPECT_EQ(d[0], 1.5) << name;
  }
  std::vector<int64_t> i(1);
  reader.read("i32", 0, i);
  EXPECT_EQ(i[0], -5);
  reader.read("u8", 0, i);
  EXPECT_EQ(i[0], 200);
  std::vector<float> f(1);
  EXPECT_CONTAINS(message_of<DataError>([&] { reader.read("i32", 0, f); }),
                  "expected F32, BF16, F16 or F64, found I32");
  EXPECT_CONTAINS(message_of<DataError>([&] { reader.read("bool", 0, i); }), "found BOOL");
  EXPECT_EQ(reader.bytes("bool").size(), 1u);
}

TEST(Safetensors, HalfPrecisionIsExact) {
  EXPECT_EQ(half_to_float(0x3C00), 1.0f);
  EXPECT_EQ(half_to_float(0xC000), -2.0f);
  EXPECT_EQ(half_to_float(0x7BFF), 65504.0f);
  EXPECT_EQ(half_to_float(0x0400), 0x1p-14f);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24f);  // the smallest subnormal
  EXPECT_EQ(half_to_float(0x83FF), -1023 * 0x1p-24f);
  EXPECT_EQ(half_to_float(0x7C00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half_to_float(0x7E01)));
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  // Every finite number by the definition (-1)^s 2^(e-15) (1 + m/1024).
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const int e = static_cast<int>(bits >> 10);
    const double m = (bits & 1023u) / 1024.0;
    const double expected = e == 0 ? std::ldexp(m, -14) : std::ldexp(1.0 + m, e - 15);
    ASSERT_EQ(half_to_float(static_cast<uint16_t>(bits)), static_cast<float>(expected)) << bits;
  }
}

TEST(Safetensors, NamesWhatIsWrongInAFile) {
  const TempDir dir;
  const std::string path = dir / "m.safetensors";
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    const std::string message = message_of<DataError>([&] { SafetensorsReader reader(path); });
    EXPECT_CONTAINS(message, path);
    return message;
  };
  const auto one = [](const std::string& fields) { return R"({"a":{)" + fields + "}}"; };
  const std::string four(4, '\0');
  EXPECT_CONTAINS(message_of<DataError>([&] { SafetensorsReader reader(path); }), "does not exist");
  EXPECT_CONTAINS(error(""), "the file is empty");
  EXPECT_CONTAINS(error("1234"), "truncated");
  EXPECT_CONTAINS(error(Bytes().put<uint64_t>(100).text("{}").data), "header doesn't fit");
  EXPECT_CONTAINS(error(Bytes().put(~uint64_t{0}).text("{}").data), "header doesn't fit");
  EXPECT_CONTAINS(error(safetensors("{\"a\":", "")), "not JSON");
  EXPECT_CONTAINS(error(safetensors("[1]", "")), "not a JSON object");
  EXPECT_CONTAINS(error(safetensors(R"({"a":{"dtype":"F32"}})", "")), "incomplete");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"), four)),
                  "dtype is not known");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), four)),
                  "shape is not possible");
  EXPECT_CONTAINS(
      error(safetensors(one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), four)),
      "shape is not possible");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), four)),
                  "disagree (expected 8 bytes for F32[2], found 4 bytes) at tensor 'a'");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), four)),
                  "data_offsets are not possible");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), four + four)),
                  "a gap before");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "ab")),
                  "the file is truncated");
  EXPECT_CONTAINS(error(safetensors(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), four + "a")),
                  "belong to no tensor");
  EXPECT_CONTAINS(
      error(safetensors(
          R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
          four)),
      "two tensors overlap (expected data from byte 3, found byte 2) at tensor 'b'");
  EXPECT_CONTAINS(error(safetensors(R"({"__metadata__":{"n":1}})", "")), "may hold text only");
}

TEST(Safetensors, NamesTheNearestTensor) {
  const TempDir dir;
  write_file(dir / "m.safetensors",
             safetensors(R"({"model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  const SafetensorsReader reader(dir / "m.safetensors");
  EXPECT_CONTAINS(message_of<DataError>([&] { reader.spec("model.norm.weigth"); }), "'model.norm.weight', the nearest");
}

TEST(Safetensors, ReadsADirectory) {
  const TempDir dir;
  EXPECT_CONTAINS(message_of<DataError>([&] { SafetensorsReader reader(dir.path()); }), "holds no weights");
  write_file(dir / "pytorch_model.bin", "x");
  EXPECT_CONTAINS(message_of<DataError>([&] { SafetensorsReader reader(dir.path()); }), "safe_serialization=True");
  write_file(dir / "model.safetensors", safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  EXPECT_TRUE(SafetensorsReader(dir.path()).contains("a"));

  write_file(dir / "one.safetensors", safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"));
  write_file(dir / "two.safetensors", safetensors(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "2"));
  const std::string index = dir / "model.safetensors.index.json";
  write_file(index, R"({"metadata":{"total_size":2},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const SafetensorsReader reader(dir.path());
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(static_cast<char>(reader.bytes("a")[0]), '1');
  EXPECT_EQ(static_cast<char>(reader.bytes("b")[0]), '2');
  EXPECT_EQ(reader.file_of("b"), dir / "two.safetensors");

  const auto error = [&](const std::string& text) {
    write_file(index, text);
    return message_of<DataError>([&] { SafetensorsReader broken(dir.path()); });
  };
  EXPECT_CONTAINS(error("{"), "not JSON");
  EXPECT_CONTAINS(error("{}"), "names no tensors");
  EXPECT_CONTAINS(error(R"({"weight_map":{"c":"one.safetensors"}})"),
                  "not in its file (expected 'c') at " + (dir / "one.safetensors"));
  EXPECT_CONTAINS(error(R"({"weight_map":{"a":"three.safetensors"}})"),
                  "does not exist at " + (dir / "three.safetensors"));
  EXPECT_CONTAINS(error(R"({"weight_map":{"a":"../one.safetensors"}})"), "outside its directory");
}

TEST(SafetensorsWriter, RoundTripInAnyOrderAndInPieces) {
  const TempDir dir;
  const std::string path = dir / "out/m.safetensors";
  const std::vector<float> w = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> n = {-1, 1};
  const std::vector<uint8_t> u = {9};
  SafetensorsWriter writer(path,
                           {{"u", FileDType::u8, {1}},
                            {"w\"ü", FileDType::f32, {2, 3}},
                            {"n", FileDType::i64, {2}},
                            {"empty", FileDType::bf16, {0}}},
                           {{"step", "12"}});
  writer.write_values<int64_t>("n", n);
  writer.write_values<float>("w\"ü", std::span(w).first(1));
  writer.write_values<uint8_t>("u", u);
  writer.write_values<float>("w\"ü", std::span(w).subspan(1));
  EXPECT_FALSE(file_exists(path));
  writer.finish();
  EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(path)), writer.size_bytes());
  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.metadata().at("step"), "12");
  std::vector<float> w2(6);
  reader.read("w\"ü", 0, w2);
  EXPECT_EQ(w2, w);
  std::vector<int64_t> n2(2);
  reader.read("n", 0, n2);
  EXPECT_EQ(n2, n);
  EXPECT_EQ(reader.bytes("empty").size(), 0u);
  // Each tensor is aligned to its element, though the list began with a byte.
  for (const std::string& name : reader.names()) {
    const auto address = reinterpret_cast<uintptr_t>(reader.bytes(name).data());
    EXPECT_EQ(address % static_cast<uintptr_t>(file_dtype_bytes(reader.spec(name).dtype)), 0u) << name;
  }
}

TEST(SafetensorsWriter, RefusesAnIncompleteFile) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors", {{"w", FileDType::f32, {2}}});
  const std::vector<float> one = {1};
  writer.write_values<float>("w", one);
  EXPECT_CONTAINS(message_of<BugError>([&] { writer.finish(); }), "not written whole: w");
  EXPECT_CONTAINS(message_of<BugError>([&] { writer.write_values<float>("x", one); }), "not in the header: x");
}

// A limit on the size of files stands for a disk without space: both fail a write in the middle.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int) = nullptr;
};

TEST(AtomicFile, AFailedWriteNamesThePathAndLeavesTheOldFile) {
  const TempDir dir;
  const std::string path = dir / "m.safetensors";
  write_file(path, "old");
  std::string message;
  {
    const FileSizeLimit limit(100'000);
    SafetensorsWriter writer(path, {{"w", FileDType::f32, {1'000'000}}});
    const std::vector<float> w(1'000'000);
    message = message_of<MachineError>([&] { writer.write_values<float>("w", w); });
  }
  EXPECT_CONTAINS(message, "cannot write the file (found File too large) at " + path);
  EXPECT_CONTAINS(message, "freeing space");
  EXPECT_EQ(testing::read_file(path), "old");
  EXPECT_FALSE(file_exists(path + ".tmp"));
}

TEST(AtomicFile, BufferedBytesFailAtTheLatestAtCommit) {
  const TempDir dir;
  const std::vector<std::byte> bytes(200'000);
  const FileSizeLimit limit(100'000);
  AtomicFile file(dir / "a");
  file.append(bytes);  // fits the buffer
  EXPECT_CONTAINS(message_of<MachineError>([&] { file.commit(); }), dir / "a");
}

TEST(AtomicFile, NamesADirectoryThatCantBeMade) {
  const TempDir dir;
  write_file(dir / "file", "x");
  const std::string message = message_of<MachineError>([&] { AtomicFile file(dir / "file/below/a"); });
  EXPECT_CONTAINS(message, dir / "file/below");
  EXPECT_CONTAINS(message, "Not a directory");
}

TEST(MappedFile, NamesWhatIsNotAFile) {
  const TempDir dir;
  EXPECT_CONTAINS(message_of<DataError>([&] { MappedFile file(dir.path()); }), "found a directory) at " + dir.path());
}

}  // namespace
}  // namespace trireme
