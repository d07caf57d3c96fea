#include "tests/bench/op_cases.h"

#include <algorithm>
#include <cmath>

#include "core/device/thread_pool.h"
#include "core/ops/activation.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/ops/rotary.h"
#include "core/random/philox.h"
#include "models/loss_head.h"

namespace trireme {

Tensor Operands::filled(Shape shape, DType dtype, double spread) {
  Tensor t = Tensor::empty(stream_, shape, dtype);
  // A block of normal numbers, and copies of it.
  const int64_t block = std::min<int64_t>(t.numel(), int64_t{1} << 20);
  if (block == 0) return t;
  std::vector<float> values(static_cast<size_t>(block));
  const uint64_t key = random_key(static_cast<uint64_t>(bytes_), "operand");
  stream_.pool().for_ranges(block, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values[static_cast<size_t>(i)] = static_cast<float>(spread * normal_at(key, static_cast<uint64_t>(i)));
    }
  });
  Tensor first = t.flat_slice(0, {block});
  if (dtype == DType::bf16) {
    Tensor wide = Tensor::empty(stream_, {block}, DType::f32);
    ops::copy_from_host(stream_, values.data(), wide);
    ops::cast(stream_, wide, first);
  } else {
    TRIREME_CHECK(dtype == DType::f32, "operands are f32 or bf16");
    ops::copy_from_host(stream_, values.data(), first);
  }
  for (int64_t done = block; done < t.numel();) {
    const int64_t count = std::min(done, t.numel() - done);
    Tensor place = t.flat_slice(done, {count});
    ops::copy(stream_, t.flat_slice(0, {count}), place);
    done += count;
  }
  return t;
}

Tensor Operands::read(Shape shape, DType dtype, double spread) {
  Tensor t = filled(shape, dtype, spread);
  bytes_ += t.bytes();
  return t;
}

Tensor Operands::write(Shape shape, DType dtype) {
  Tensor t = Tensor::empty(stream_, shape, dtype);
  bytes_ += t.bytes();
  return t;
}

Tensor Operands::update(Shape shape, DType dtype) {
  Tensor t = filled(shape, dtype, 1.0);
  bytes_ += 2 * t.bytes();
  return t;
}

Tensor Operands::ids(int64_t count, int64_t bound) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  const uint64_t key = random_key(static_cast<uint64_t>(bytes_), "ids");
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<int32_t>(uniform_below(key, i, static_cast<uint64_t>(bound)));
  }
  Tensor t = Tensor::empty(stream_, {count}, DType::i32);
  ops::copy_from_host(stream_, values.data(), t);
  bytes_ += t.bytes();
  return t;
}

Tensor Operands::places(int64_t count, int64_t period) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(static_cast<int64_t>(i) % period);
  Tensor t = Tensor::empty(stream_, {count}, DType::i32);
  ops::copy_from_host(stream_, values.data(), t);
  bytes_ += t.bytes();
  return t;
}

namespace {

// Weights as they are when training begins, so that outputs are of the size of inputs.
double weight_spread(int64_t in) { return 1.0 / std::sqrt(static_cast<double>(in)); }

double product_flops(int64_t a, int64_t b, int64_t c) {
  return 2.0 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

std::string product_shape(int64_t tokens, int64_t in, int64_t out) {
  return std::to_string(tokens) + " x " + std::to_string(in) + " x " + std::to_string(out);
}

// Goes through the ops of a model. What a case makes refers to this object.
class ModelCases {
 public:
  using Visit = std::function<void(const OpCase&)>;

  ModelCases(const Config& config, DeviceType device, DType compute, const Visit& visit)
      : visit_(visit),
        model_(config.model),
        device_(device),
        compute_(compute),
        gradients_(config.precision.gradients == StateType::bf16 ? DType::bf16 : DType::f32),
        batch_(config.batch.micro),
        sequence_(config.data.sequence_length),
        tokens_(batch_ * sequence_),
        hidden_(model_.hidden_size),
        layer_norm_(model_.norm == NormKind::layer),
        attention_(attention_shape(config)) {}

  void run() {
    embedding();
    const int64_t q_rows = model_.num_heads * model_.head_dim;
    const int64_t qkv_rows = q_rows + 2 * model_.num_kv_heads * model_.head_dim;
    const bool gpt2 = model_.family == ModelFamily::gpt2;
    linear("qkv", hidden_, qkv_rows, gpt2 || model_.attention_bias);
    linear("attention out", q_rows, hidden_, gpt2);
    if (model_.activation == Activation::swiglu) {
      linear("up", hidden_, 2 * model_.ffn_size, gpt2);
      swiglu();
      linear("down", model_.ffn_size, hidden_, gpt2);
    } else {
      gelu_layers();
    }
    attention(qkv_rows);
    if (model_.rope.type != RopeType::none) rotary(qkv_rows);
    norms();
    residual();
    head();
  }

 private:
  int64_t layers() const { return model_.num_layers; }
  Shape hidden_shape() const { return {tokens_, hidden_}; }
  std::string rows_shape(int64_t width) const { return std::to_string(tokens_) + " x " + std::to_string(width); }

  void add(std::string name, std::string kind, std::string shape, int64_t calls, double flops,
           std::function<OpCall(Operands&)> make) {
    visit_({std::move(name), std::move(kind), std::move(shape), calls, flops, std::move(make)});
  }
  void add_memory(std::string name, int64_t width, int64_t calls, std::function<OpCall(Operands&)> make) {
    add(std::move(name), "memory", rows_shape(width), calls, 0, std::move(make));
  }

  void embedding() {
    add_memory("embedding forward", hidden_, 1, [this](Operands& o) -> OpCall {
      const Tensor ids = o.ids(tokens_, model_.vocab_size);
      const Tensor table = table_of(o);
      o.add_bytes(tokens_ * hidden_ * dtype_bytes(compute_) - table.bytes());  // the rows that are read
      Tensor y = o.write(hidden_shape(), compute_);
      return [=](Stream& s) mutable { ops::embedding_forward(s, ids, table, {0, table.dim(0)}, {}, {}, y); };
    });
    add_memory("embedding backward", hidden_, 1, [this](Operands& o) -> OpCall {
      const Tensor ids = o.ids(tokens_, model_.vocab_size);
      const Tensor dy = o.read(hidden_shape(), compute_);
      Tensor dtable = o.update({model_.vocab_size, hidden_}, gradients_);
      o.add_bytes(2 * tokens_ * hidden_ * dtype_bytes(gradients_) - 2 * dtable.bytes());
      return [=](Stream& s) mutable {
        ops::embedding_backward(s, ids, {0, dtable.dim(0)}, dy, dtable, /*accumulate=*/true);
      };
    });
  }

  Tensor table_of(Operands& o) const { return o.read({model_.vocab_size, hidden_}, compute_, 0.02); }

  void linear(const std::string& name, int64_t in, int64_t out, bool has_bias) {
    linear_forward(name, in, out, has_bias);
    linear_input_gradient(name, in, out);
    linear_weight_gradient(name, in, out, has_bias);
  }

  void add_product(std::string name, int64_t in, int64_t out, std::function<OpCall(Operands&)> make) {
    add(std::move(name), "gemm", product_shape(tokens_, in, out), layers(), product_flops(tokens_, in, out),
        std::move(make));
  }

  Tensor weight_of(Operands& o, int64_t in, int64_t out) const {
    return o.read({out, in}, compute_, weight_spread(in));
  }

  void linear_forward(const std::string& name, int64_t in, int64_t out, bool has_bias) {
    add_product(name + " forward", in, out, [=, this](Operands& o) -> OpCall {
      const Tensor x = o.read({tokens_, in}, compute_);
      const Tensor w = weight_of(o, in, out);
      const Tensor bias = has_bias ? o.read({out}, compute_) : Tensor{};
      Tensor y = o.write({tokens_, out}, compute_);
      return [=](Stream& s) mutable { ops::linear_forward(s, x, w, bias, y); };
    });
  }

  void linear_input_gradient(const std::string& name, int64_t in, int64_t out) {
    add_product(name + " input gradient", in, out, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read({tokens_, out}, compute_);
      const Tensor w = weight_of(o, in, out);
      Tensor dx = o.write({tokens_, in}, compute_);
      return [=](Stream& s) mutable { ops::linear_backward_input(s, dy, w, dx, /*accumulate=*/false); };
    });
  }

  void linear_weight_gradient(const std::string& name, int64_t in, int64_t out, bool has_bias) {
    add_product(name + " weight gradient", in, out, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read({tokens_, out}, compute_);
      const Tensor x = o.read({tokens_, in}, compute_);
      Tensor dw = o.update({out, in}, gradients_);
      Tensor dbias = has_bias ? o.update({out}, gradients_) : Tensor{};
      return [=](Stream& s) mutable { ops::linear_backward_weight(s, dy, x, dw, dbias, /*accumulate=*/true); };
    });
  }

  // The feed-forward layers of GPT-2: the activation belongs to the products around it.
  void gelu_layers() {
    const int64_t ffn = model_.ffn_size;
    const ops::Gelu kind = model_.activation == Activation::gelu_tanh ? ops::Gelu::tanh : ops::Gelu::erf;
    add_product("up and gelu forward", hidden_, ffn, [=, this](Operands& o) -> OpCall {
      const Tensor x = o.read(hidden_shape(), compute_);
      const Tensor w = weight_of(o, hidden_, ffn);
      const Tensor bias = o.read({ffn}, compute_);
      Tensor up = o.write({tokens_, ffn}, compute_);
      Tensor y = o.write({tokens_, ffn}, compute_);
      return [=](Stream& s) mutable { static_cast<void>(ops::linear_gelu_forward(s, x, w, bias, kind, up, y)); };
    });
    linear_forward("down", ffn, hidden_, true);
    add_product("down input gradient and gelu backward", ffn, hidden_, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read(hidden_shape(), compute_);
      const Tensor w = weight_of(o, ffn, hidden_);
      const Tensor up = o.read({tokens_, ffn}, compute_);
      Tensor dup = o.write({tokens_, ffn}, compute_);
      return [=](Stream& s) mutable { ops::linear_gelu_backward_input(s, dy, w, up, kind, dup); };
    });
    linear_weight_gradient("down", ffn, hidden_, true);
    linear_input_gradient("up", hidden_, ffn);
    linear_weight_gradient("up", hidden_, ffn, true);
  }

  void attention(int64_t qkv_rows) {
    const int64_t q_rows = model_.num_heads * model_.head_dim;
    const ops::AttentionShape shape = attention_;
    const Shape lse_shape{batch_, model_.num_heads, sequence_};
    // Two products of T x T x D for each head, causal: half of them.
    const double flops =
        static_cast<double>(batch_ * model_.num_heads) * product_flops(sequence_, sequence_, model_.head_dim);
    const std::string text = "B " + std::to_string(batch_) + ", T " + std::to_string(sequence_) + ", H " +
                             std::to_string(model_.num_heads) + "/" + std::to_string(model_.num_kv_heads) + ", D " +
                             std::to_string(model_.head_dim);
    add("attention forward", "attention", text, layers(), flops, [=, this](Operands& o) -> OpCall {
      const Tensor qkv = o.read({tokens_, qkv_rows}, compute_);
      Tensor out = o.write({tokens_, q_rows}, compute_);
      Tensor lse = o.write(lse_shape, DType::f32);
      return [=](Stream& s) mutable { ops::attention_forward(s, shape, qkv, {}, out, lse); };
    });
    add("attention backward", "attention", text, layers(), 2 * flops, [=, this](Operands& o) -> OpCall {
      const Tensor qkv = o.read({tokens_, qkv_rows}, compute_);
      Tensor out = o.read({tokens_, q_rows}, compute_);
      Tensor lse = o.read(lse_shape, DType::f32);
      const Tensor dout = o.read({tokens_, q_rows}, compute_);
      Tensor dqkv = o.write({tokens_, qkv_rows}, compute_);
      // `out` and `lse` must be those of the forward call.
      return [=, ready = false](Stream& s) mutable {
        if (!ready) ops::attention_forward(s, shape, qkv, {}, out, lse);
        ready = true;
        ops::attention_backward(s, shape, qkv, {}, out, lse, dout, dqkv);
      };
    });
  }

  void rotary(int64_t qkv_rows) {
    const int64_t heads = model_.num_heads + model_.num_kv_heads;
    const int64_t values = model_.num_kv_heads * model_.head_dim;
    // Forward, and backward as the inverse.
    add_memory("rotary, both ways", qkv_rows, 2 * layers(), [=, this](Operands& o) -> OpCall {
      Tensor qkv = o.update({tokens_, qkv_rows}, compute_);
      o.add_bytes(-2 * tokens_ * values * dtype_bytes(compute_));  // values aren't rotated
      const Tensor positions = o.places(tokens_, sequence_);
      const Tensor table = o.read({sequence_, model_.head_dim}, DType::f32);
      return [=, this](Stream& s) mutable {
        ops::rotary(s, qkv, positions, table, heads, model_.head_dim, /*inverse=*/false);
      };
    });
  }

  ops::NormStats stats(Operands& o) const {
    return {layer_norm_ ? o.write({tokens_}, DType::f32) : Tensor{}, o.write({tokens_}, DType::f32)};
  }

  void norms() {
    const auto eps = static_cast<float>(model_.norm_eps);
    const auto bias_of = [this](Operands& o) { return layer_norm_ ? o.read({hidden_}, compute_) : Tensor{}; };
    // The first of a block, and the head's.
    add_memory("norm forward", hidden_, layers() + 1, [=, this](Operands& o) -> OpCall {
      const Tensor x = o.read(hidden_shape(), compute_);
      const Tensor weight = o.read({hidden_}, compute_);
      const Tensor bias = bias_of(o);
      Tensor y = o.write(hidden_shape(), compute_);
      ops::NormStats st = stats(o);
      return [=](Stream& s) mutable { ops::norm_forward(s, x, weight, bias, eps, y, st); };
    });
    add_memory("residual add and norm forward", hidden_, layers(), [=, this](Operands& o) -> OpCall {
      Tensor a = o.update(hidden_shape(), compute_);
      const Tensor b = o.read(hidden_shape(), compute_, 1e-3);  // so that sums over many calls stay small
      const Tensor weight = o.read({hidden_}, compute_);
      const Tensor bias = bias_of(o);
      Tensor y = o.write(hidden_shape(), compute_);
      ops::NormStats st = stats(o);
      return [=](Stream& s) mutable { ops::add_norm_forward(s, a, b, weight, bias, eps, a, y, st); };
    });
    // Those of a block add the residual's gradient.
    add_memory("norm backward", hidden_, 2 * layers() + 1, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read(hidden_shape(), compute_, 1e-3);
      const Tensor x = o.read(hidden_shape(), compute_);
      const Tensor weight = o.read({hidden_}, compute_);
      const ops::NormStats st = {layer_norm_ ? o.read({tokens_}, DType::f32, 0.1) : Tensor{},
                                 o.read({tokens_}, DType::f32, 0.1)};
      const Tensor residual = o.read(hidden_shape(), compute_);
      Tensor dx = o.write(hidden_shape(), compute_);
      Tensor dweight = o.write({hidden_}, DType::f32);
      Tensor dbias = layer_norm_ ? o.write({hidden_}, DType::f32) : Tensor{};
      return [=](Stream& s) mutable { ops::norm_backward(s, dy, x, weight, st, residual, dx, dweight, dbias); };
    });
  }

  void swiglu() {
    const int64_t ffn = model_.ffn_size;
    add_memory("swiglu forward", ffn, layers(), [=, this](Operands& o) -> OpCall {
      const Tensor gate_up = o.read({tokens_, 2 * ffn}, compute_);
      Tensor y = o.write({tokens_, ffn}, compute_);
      return [=](Stream& s) mutable { ops::swiglu_forward(s, gate_up, y); };
    });
    add_memory("swiglu backward", ffn, layers(), [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read({tokens_, ffn}, compute_);
      const Tensor gate_up = o.read({tokens_, 2 * ffn}, compute_);
      Tensor dgate_up = o.write({tokens_, 2 * ffn}, compute_);
      return [=](Stream& s) mutable { ops::swiglu_backward(s, dy, gate_up, dgate_up); };
    });
  }

  void residual() {
    add_memory("residual add", hidden_, layers(), [this](Operands& o) -> OpCall {
      const Tensor a = o.read(hidden_shape(), compute_);
      const Tensor b = o.read(hidden_shape(), compute_);
      Tensor y = o.write(hidden_shape(), compute_);
      return [=](Stream& s) mutable { ops::add(s, a, b, y); };
    });
  }

  // Chunk by chunk, as LossHead does it.
  void head() {
    const int64_t vocab = model_.vocab_size;
    const LossHead::Chunks cut = LossHead::chunks(device_, compute_, tokens_, vocab);
    const int64_t chunk = cut.tokens;
    const int64_t chunks = (tokens_ + chunk - 1) / chunk;
    const double flops = product_flops(chunk, hidden_, vocab);
    const std::string shape = product_shape(chunk, hidden_, vocab);
    add("head forward", "gemm", shape, chunks, flops, [=, this](Operands& o) -> OpCall {
      const Tensor x = o.read({chunk, hidden_}, compute_);
      const Tensor table = table_of(o);
      Tensor logits = o.write({chunk, vocab}, cut.dtype);
      return [=](Stream& s) mutable { ops::linear_forward(s, x, table, {}, logits); };
    });
    add("cross-entropy", "memory", std::to_string(chunk) + " x " + std::to_string(vocab), chunks, 0,
        [=, this](Operands& o) -> OpCall {
          const Tensor logits = o.read({chunk, vocab}, cut.dtype);
          const Tensor labels = o.ids(chunk, vocab);
          const Tensor scale = o.read({1}, DType::f32);
          Tensor losses = o.write({chunk}, DType::f32);
          Tensor dlogits = o.write({chunk, vocab}, compute_);
          return [=](Stream& s) mutable {
            ops::cross_entropy(s, logits, labels, {0, logits.dim(1)}, {}, scale, losses, dlogits);
          };
        });
    add("head weight gradient", "gemm", shape, chunks, flops, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read({chunk, vocab}, compute_, 1e-3);
      const Tensor x = o.read({chunk, hidden_}, compute_);
      Tensor dw = o.update({vocab, hidden_}, gradients_);
      Tensor no_bias;
      return [=](Stream& s) mutable { ops::linear_backward_weight(s, dy, x, dw, no_bias, /*accumulate=*/true); };
    });
    add("head input gradient", "gemm", shape, chunks, flops, [=, this](Operands& o) -> OpCall {
      const Tensor dy = o.read({chunk, vocab}, compute_, 1e-3);
      const Tensor table = table_of(o);
      Tensor dx = o.write({chunk, hidden_}, compute_);
      return [=](Stream& s) mutable { ops::linear_backward_input(s, dy, table, dx, /*accumulate=*/false); };
    });
  }

  const Visit& visit_;
  const ModelConfig model_;
  const DeviceType device_;
  const DType compute_;
  const DType gradients_;
  const int64_t batch_;
  const int64_t sequence_;
  const int64_t tokens_;
  const int64_t hidden_;
  const bool layer_norm_;
  const ops::AttentionShape attention_;
};

}  // namespace

ops::AttentionShape attention_shape(const Config& config) {
  const ModelConfig& m = config.model;
  return {config.batch.micro, config.data.sequence_length,
          m.num_heads,        m.num_kv_heads,
          m.head_dim,         1.0f / std::sqrt(static_cast<float>(m.head_dim))};
}

OpCase gemm_case(const std::string& name, int64_t tokens, int64_t in, int64_t out, DType dtype, int64_t calls) {
  return {
      name, "gemm", product_shape(tokens, in, out), calls, product_flops(tokens, in, out), [=](Operands& o) -> OpCall {
        const Tensor x = o.read({tokens, in}, dtype);
        const Tensor w = o.read({out, in}, dtype, weight_spread(in));
        Tensor y = o.write({tokens, out}, dtype);
        return [=](Stream& s) mutable { ops::linear_forward(s, x, w, {}, y); };
      }};
}

OpCase copy_case(int64_t bytes) {
  const int64_t count = bytes / dtype_bytes(DType::f32);
  return {"copy", "memory", std::to_string(bytes >> 20) + " MiB", 1, 0, [=](Operands& o) -> OpCall {
            const Tensor x = o.read({count}, DType::f32);
            Tensor y = o.write({count}, DType::f32);
            return [=](Stream& s) mutable { ops::copy(s, x, y); };
          }};
}

void visit_model_cases(const Config& config, DeviceType device, DType compute,
                       const std::function<void(const OpCase&)>& visit) {
  ModelCases(config, device, compute, visit).run();
}

}  // namespace trireme
