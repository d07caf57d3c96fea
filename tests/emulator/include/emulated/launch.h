// cudaLaunchKernelEx: packs the arguments and hands the launch to the emulator.
#pragma once

#include "../cuda_runtime_api.h"

namespace emulator {

// A kernel with its arguments; `run_thread` is called once for each thread, with threadIdx and the others set.
class Body {
 public:
  virtual ~Body() = default;
  virtual void run_thread() const = 0;
};

template <class F>
class BodyOf final : public Body {
 public:
  explicit BodyOf(const F& call) : call_(call) {}
  void run_thread() const override { call_(); }

 private:
  F call_;
};

// Takes `body`, whatever it returns. `kernel` is the address of the function.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const Body* body);

template <class T>
struct Same {
  using type = T;
};

template <class... Params>
inline const Body* make_body(void (*kernel)(Params...), Params... args) {
  const auto call = [kernel, args...] { kernel(args...); };
  return new BodyOf<decltype(call)>(call);
}

}  // namespace emulator

template <class... Params, class... Args>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                                             Args&&... args) {
  return emulator::launch(*config, reinterpret_cast<const void*>(kernel),
                          emulator::make_body<Params...>(kernel, static_cast<Params>(args)...));
}

template <class Result, class... Params>
static inline cudaError_t cudaFuncSetAttribute(Result (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
  return ::cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
