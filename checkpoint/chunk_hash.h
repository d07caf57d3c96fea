// The hash of a chunk of a file (manifest.h) that is taken while its bytes are copied: memory is read once for both, and
// what is written doesn't push the caller's data out of the processor's caches. For a save beside training on the same cores,
// which pays for every byte that it moves.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>

namespace trireme {

class ChunkHash {
 public:
  ChunkHash();
  ~ChunkHash();

  // Copies the chunk's next bytes, past the caches. Other threads that learn of the chunk by way of a lock see them.
  void copy(const void* from, void* to, int64_t bytes);
  // As hash_bytes (manifest.h) of everything copied since the last call.
  uint64_t take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
