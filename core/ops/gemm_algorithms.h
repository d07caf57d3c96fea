// Which algorithm of cuBLASLt each matrix product runs with.
//
// On a GPU the first product of a shape times the library's candidates and keeps the fastest. Timings differ from run to
// run and the algorithms differ in their last bits, so a run records the choices and a resume takes them up again: then
// the same layout gives the same bits. On the CPU there is nothing to choose.
#pragma once

#include <string>

#include "core/device/device.h"

namespace trireme::ops {

// The choices made on this stream so far, those that were imported included, as JSON: the library's version, the GPU's
// name, and for each product the algorithm. Empty on the CPU.
std::string export_gemm_algorithms(Stream& stream);

// From now on products on this stream run with these choices where they name one; others are timed as they come. May be
// called again with more; the latest word on a product counts. False, and nothing imported, when they were made for
// another version of the library or another GPU. Throws DataError unless `json` is empty or what export gave.
bool import_gemm_algorithms(Stream& stream, const std::string& json);

}  // namespace trireme::ops
