// Switches emulated GPUs on before GoogleTest asks for the devices that parameterised tests run on.
#include "tests/emulator/emulator.h"

namespace {

const bool switched_on = [] {
  emulator::set_num_devices(8);
  return true;
}();

}  // namespace
