// 2^x of sixteen lanes. Included by source files that have switched their target; local to them.
#pragma once

namespace trireme::cpu {
namespace {

// 2^x to 2 ulp; exactly 1 for 0, 0 below 2^-126; NaN stays NaN. Minimax polynomial of 2^r on [0, 1).
template <class S>
[[gnu::always_inline]] inline typename S::F exp2_lanes(typename S::F x) {
  x = S::max(S::set1(-127.0f), x);
  const typename S::F r = S::fraction(x);
  typename S::F p = S::set1(0x1.e974fcp-10f);
  p = S::fma(p, r, S::set1(0x1.277854p-7f));
  p = S::fma(p, r, S::set1(0x1.c91ce6p-5f));
  p = S::fma(p, r, S::set1(0x1.ebdb56p-3f));
  p = S::fma(p, r, S::set1(0x1.62e4bap-1f));
  p = S::fma(p, r, S::set1(1.0f));
  return S::scale_by_power(p, x);
}

}  // namespace
}  // namespace trireme::cpu
