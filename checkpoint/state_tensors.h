// The names under which a checkpoint keeps the state of a parameter: weights under the parameter's own, optimizer states
// behind a prefix.
#pragma once

#include <string>
#include <string_view>

#include "parallel/zero/bucket.h"

namespace trireme {

inline constexpr Bucket::Buffer kStateBuffers[] = {Bucket::Buffer::master, Bucket::Buffer::first_moment,
                                                   Bucket::Buffer::second_moment};
inline constexpr std::string_view kOptimizerPrefix = "optimizer.";

// "NAME", "optimizer.first_moment.NAME", "optimizer.second_moment.NAME".
std::string state_tensor_name(Bucket::Buffer buffer, const std::string& parameter);

}  // namespace trireme
