// What one rank writes of a checkpoint: the stretches of its buckets, and the boxes of logical tensors that they are.
//
// Equal copies are shared out: where R ranks hold the same shard of a bucket (replicas, tensor ranks of what isn't split,
// both ends of a pipeline with a tied table), each writes a part, small buckets go to one of them in turn. So every
// element is written once, by all ranks together. A pure function of mesh and model; no rank asks another.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "parallel/mesh.h"
#include "parallel/zero/bucket.h"

namespace trireme {

// Elements [begin, end) of a bucket in one of its buffers, of which this rank has them.
struct SavePiece {
  Bucket* bucket = nullptr;
  Bucket::Buffer buffer = Bucket::Buffer::master;
  int64_t begin = 0;
  int64_t end = 0;

  int64_t width() const;  // bytes of an element as stored
  Tensor elements() const;
  // Calls run(first, n) for the stretches of [from, to) that are elements of parameters, in order: what lies between is
  // padding.
  void for_each_stretch(int64_t from, int64_t to, const std::function<void(int64_t, int64_t)>& run) const;
};

class SavePlan {
 public:
  // `buckets` of this rank's model, in its order, and this rank's place. The buckets outlive the plan.
  SavePlan(const std::vector<Bucket*>& buckets, const Mesh& mesh);

  const std::string& file_name() const { return file_name_; }
  // The file: this text, then the pieces' elements, wider ones first, so that each is aligned to its width.
  const std::string& header() const { return header_; }
  const std::vector<SavePiece>& pieces() const { return pieces_; }
  int64_t file_bytes() const { return file_bytes_; }
  // The logical tensors of which the file (number 0) holds boxes.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

 private:
  void list_boxes(const SavePiece& piece);
  void make_header();

  std::string file_name_;
  std::vector<SavePiece> pieces_;
  std::vector<StoredTensor> tensors_;
  std::string header_;
  int64_t file_bytes_ = 0;
};

}  // namespace trireme
