// TRIREME_MULTIVERSION, written before a function's definition, compiles it twice: for AVX2 (what the whole
// program is built for) and for AVX-512; the dynamic linker picks one when the program starts.
//
//   TRIREME_MULTIVERSION void scale(float* x, int64_t n, float s) { for (int64_t i = 0; i < n; ++i) x[i] *= s; }
//
// - Loops inside are vectorised (-O3), which our general -O2 does for few loops.
// - Put it on the function that holds the loop: what the loop calls must be inlined into it, else that part
//   stays AVX2. Functions and function templates; not virtual functions.
// - A sum `s += x[i]` keeps the order that is written and so is not vectorised: say `#pragma omp simd reduction(+ : s)`
//   before a long loop, use lanes.h for a short one.
// - The two versions may round differently (fused multiply-add, order of a sum): bits repeat on one kind
//   of CPU, not from one kind to the other.
// - Sanitizers can't run inside the resolvers that it makes; under TRIREME_SANITIZED it is empty.
#pragma once

#ifdef TRIREME_SANITIZED
#define TRIREME_MULTIVERSION
#else
#define TRIREME_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "default"), optimize("O3")))
#endif
