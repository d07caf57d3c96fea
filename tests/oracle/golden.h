// The golden cases of tests/oracle: where they lie, how a run of one is configured, and the comparison with what
// PyTorch computed. Shared by the tests that run them on one rank, on threads and under mpirun.
#pragma once

#include <string>
#include <vector>

#include "core/config/config.h"
#include "launcher/probe.h"

namespace trireme::golden {

// Names of the cases whose batch divides by `divisor`, sorted.
std::vector<std::string> cases(int divisor);

// The probe of a case that writes to `out`, and its configuration with `sets` over it.
struct Run {
  ProbeOptions options;
  Config config;
};
Run make_run(const std::string& name, const std::string& out, const std::vector<std::string>& sets);

// The words behind `trireme probe` that run a case, without --out.
std::vector<std::string> probe_arguments(const std::string& name);

// Compares what a probe wrote with the case's expected.safetensors: losses to 1e-6, logits, gradients, norms and
// weights to 1e-5 by the measure of README.md, the same names. Failures are GoogleTest's.
void expect_golden(const std::string& name, const std::string& out);

// Compares the files of two probes: the same names, every output to the same bounds.
void expect_same(const std::string& out, const std::string& reference);

// The largest error of the tensors whose name begins with `kind` ("grad.", "weight.", …), by the same measure.
double worst_error(const std::string& name, const std::string& out, const std::string& kind);

}  // namespace trireme::golden
