// What ThreadSanitizer is told about libraries that are not built for it, linked into every program of its tree.
//
// oneDNN keeps the primitives it has made in a cache shared by all threads. Its locks are inlined atomics, which
// ThreadSanitizer can't see in a library that isn't instrumented; it sees the allocations on both sides only.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "called_from_lib:libdnnl.so\n"; }
