// Texts between ranks: reports of different lengths, such as what each rank wrote. All calls are collective; `world`
// connects host memory.
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace trireme {

// Rank 0 gets the text of every rank, in rank order; the others get nothing.
std::vector<std::string> gather_texts(Communicator& world, Stream& stream, const std::string& text);

// Everybody gets the root's text.
std::string broadcast_text(Communicator& world, Stream& stream, std::string text, int root);

}  // namespace trireme
