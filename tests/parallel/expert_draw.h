// Random layouts of models with experts: those of layouts_draw.h in fp32, with a family that has experts, expert degrees,
// and a router drawn upon them, and in some of them multi-token prediction and MoE++.
#pragma once

#include <cstdint>

#include "tests/parallel/layouts_draw.h"

namespace trireme::layouts {

// Layout `number` of `seed`; another one for each `attempt`. Its levels are those of the dense layout behind it.
Draw draw_expert_layout(uint64_t seed, int number, int attempt = 0);

// Of every block of so many consecutive layouts each kind of router, balance, dispatch and family comes up, and quotas of
// expert_layouts_test.cc hold.
inline constexpr int kExpertBlock = 40;
// Of every ten draws the one whose experts are kept even by a selection bias.
inline constexpr int kDrawsOfBias = 3;

}  // namespace trireme::layouts
