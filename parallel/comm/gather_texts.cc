#include "parallel/comm/gather_texts.h"

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

}  // namespace trireme
