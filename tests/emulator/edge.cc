#include "tests/emulator/race.h"
#include "tests/emulator/stream.h"

namespace emulator {

Edge::Edge() : token_(race::new_token()) {}
Edge::~Edge() { race::delete_token(token_); }
void Edge::release() { race::release(token_); }
void Edge::acquire() { race::acquire(token_); }

}  // namespace emulator
