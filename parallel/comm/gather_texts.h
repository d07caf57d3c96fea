// Texts of all ranks on rank 0: reports of different lengths, such as what each rank wrote.
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace trireme {

// Rank 0 gets the text of every rank, in rank order; the others get nothing. Collective; `world` connects host memory.
std::vector<std::string> gather_texts(Communicator& world, Stream& stream, const std::string& text);

}  // namespace trireme
