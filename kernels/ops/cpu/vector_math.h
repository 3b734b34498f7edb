#pragma once
// Elementary functions that g++ turns into vector code: no branch, no call, no table. In a plain
// loop over floats in a file of kernels/ops/cpu they run 8 wide with FMA (it takes the
// -fno-trapping-math of CMakeLists.txt: else g++ vectorises no comparison). The polynomials
// interpolate at Chebyshev nodes; tests/kernels/vector_math_test.cc holds each function to its
// stated error. The fp64 overloads call <cmath>: only gradient checks use them.
#include <bit>
#include <cmath>
#include <cstdint>

namespace muster::kernels::cpu {

// e^x within 2 ulp (within 2^-149 where the result is subnormal). ExpF(-inf) = 0, overflow gives
// +inf, NaN stays NaN.
//   x = n ln 2 + r, |r| <= ln 2 / 2,   e^x = 2^n (1 + r + r^2 q(r))
inline float ExpF(float x) {
  // Beyond these the result is 0 or +inf anyway, and n stays small enough for the two scalings.
  x = x > 89.0f ? 89.0f : x;
  x = x < -105.0f ? -105.0f : x;
  // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts; the first has trailing zeros, so n times it is exact.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float q = 1.39269266e-3f;
  q = q * r + 8.36377387e-3f;
  q = q * r + 4.16665501e-2f;
  q = q * r + 1.66665734e-1f;
  q = q * r + 0.5f;
  const float p = (q * (r * r) + r) + 1.0f;
  // 2^n in two factors, because n reaches -151 and 128, which no normal fp32 holds. (Unsigned: a
  // NaN's bits must not overflow.)
  const int32_t exponent =
      static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound));
  const int32_t half = exponent >> 1;
  const float scale1 = std::bit_cast<float>((static_cast<uint32_t>(half) + 127u) << 23);
  const float scale2 = std::bit_cast<float>(
      (static_cast<uint32_t>(exponent) - static_cast<uint32_t>(half) + 127u) << 23);
  return p * scale1 * scale2;
}
inline double ExpF(double x) { return std::exp(x); }

// tanh x within 3 ulp; odd, +-1 at +-inf, NaN stays NaN.
//   |x| < 0.625: x + x^3 p(x^2); beyond: sign(x) (1 - 2 / (e^(2|x|) + 1))
inline float TanhF(float x) {
  const float magnitude = std::fabs(x);
  const float z = x * x;
  float p = 2.29274213e-3f;
  p = p * z - 8.34394262e-3f;
  p = p * z + 2.17689175e-2f;
  p = p * z - 5.39592594e-2f;
  p = p * z + 1.33333036e-1f;
  p = p * z - 3.33333332e-1f;
  const float small = x + x * z * p;
  const float large = std::copysign(1.0f - 2.0f / (ExpF(2.0f * magnitude) + 1.0f), x);
  return magnitude < 0.625f ? small : large;
}
inline double TanhF(double x) { return std::tanh(x); }

// The logistic function 1 / (1 + e^-x).
inline float SigmoidF(float x) { return 1.0f / (1.0f + ExpF(-x)); }
inline double SigmoidF(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace muster::kernels::cpu
