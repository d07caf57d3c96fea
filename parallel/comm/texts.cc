#include "parallel/comm/texts.h"

namespace trireme {

namespace {

Tensor bytes_of(std::string& text) {
  return Tensor::borrow(text.data(), {static_cast<int64_t>(text.size())}, DType::u8);
}

}  // namespace

std::vector<std::string> gather_texts(Communicator& world, Stream& stream, const std::string& text) {
  auto size = static_cast<int64_t>(text.size());
  std::vector<int64_t> sizes(static_cast<size_t>(world.size()));
  world
      .all_gather(Tensor::borrow(&size, {1}, DType::i64), Tensor::borrow(sizes.data(), {world.size()}, DType::i64),
                  stream)
      ->wait(stream);
  std::string own = text;
  std::vector<std::string> texts;
  std::vector<Transfer> transfers;
  if (world.rank() == 0) {
    for (const int64_t n : sizes) texts.emplace_back(static_cast<size_t>(n), '\0');
    for (int peer = 1; peer < world.size(); ++peer) {
      transfers.push_back(Transfer::recv(bytes_of(texts[static_cast<size_t>(peer)]), peer));
    }
    texts.front() = std::move(own);
  } else {
    transfers.push_back(Transfer::send(bytes_of(own), 0));
  }
  if (!transfers.empty()) world.send_recv(std::move(transfers), stream)->wait(stream);
  return texts;
}

std::string broadcast_text(Communicator& world, Stream& stream, std::string text, int root) {
  if (world.size() == 1) return text;
  auto length = static_cast<int64_t>(text.size());
  world.broadcast(Tensor::borrow(&length, {1}, DType::i64), root, stream)->wait(stream);
  text.resize(static_cast<size_t>(length));
  if (length > 0) world.broadcast(bytes_of(text), root, stream)->wait(stream);
  return text;
}

}  // namespace trireme
