// Checks of the arguments of ops. What they find is a bug of ours: users' input has been checked long before.
#pragma once

#include <string_view>

#include "core/ops/vocabulary_part.h"
#include "core/tensor/tensor.h"

namespace trireme::ops {

// Throws BugError that names the op and the tensor unless it is defined, on the stream's device, and has this
// dtype and shape.
void check_tensor(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor, DType dtype,
                  const Shape& shape);

// The same for a tensor of this shape, f32 or bf16.
void check_float(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor,
                 const Shape& shape);

// The same for a matrix of any size of f32 or bf16, whose dtype and shape the other arguments then follow.
void check_float_matrix(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor);

// A part that begins at an id, and has room in `width` rows of a table, or columns of logits.
void check_part(std::string_view op, const VocabularyPart& part, int64_t width);

// As many elements, whatever the shape.
void check_same_count(std::string_view op, const Tensor& a, const Tensor& b);

[[noreturn]] void fail_argument(std::string_view op, std::string_view name, std::string_view text);

}  // namespace trireme::ops
