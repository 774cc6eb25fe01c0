// The deterministic gradient of value: sums of 64-bit whole numbers, which do not depend on their order.
// Their unit is a power of two, chosen so that even all contributions at one pixel stay below 2^62:
//   |contribution| <= max|grad| * max|weight|, at most Q * L * P of them for a pixel.
// Each contribution is thus rounded by at most max|grad| * max|weight| * Q * L * P * 2^-60: with 18,071 queries and 16
// samples 2^-42 of the largest possible contribution. A non-finite contribution makes the whole gradient NaN, so
// that a gradient scaler sees it.
#pragma once

#include "cuda_forward.h"

namespace gdseg::cuda {

constexpr int kNoExponent = 2048;  // added to exponents, so that 0 means "only zeros were seen"

template <class R>
struct FixedPoint {
  long long* sums;
  int* state;       // zeros at the start: exponents of the largest gradient and weight (x < 2^exponent), broken
  int count_bits;   // the contributions to one pixel are fewer than 2^count_bits
  bool is_softmax;  // the weights are at most 1 and were not looked at

  __device__ __forceinline__ int unit_exponent() const {
    const int weight = is_softmax ? 1 : state[1] - kNoExponent;
    const int bound = state[0] - kNoExponent + weight + count_bits;
    const int limit = sizeof(R) == 4 ? 126 : 1000;  // 2^-exponent must be a number too
    return min(max(bound - 62, -limit), limit);
  }
};

// to += x / unit
template <class R>
__device__ __forceinline__ void add_fixed(long long* to, R x, R per_unit, int* is_broken) {
  const R scaled = x * per_unit;
  if (fabs(scaled) < R(9.2e18)) {
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(llrint(scaled)));
  } else {
    *is_broken = 1;  // not finite
  }
}

// state = max(state, exponent of the largest finite |x|); the grid strides over the values.
template <class T>
__global__ void __launch_bounds__(256) largest_exponent_kernel(const T* values, int64_t count, int* state) {
  int exponent = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const Real<T> x = fabs(as_real(values[i]));
    if (x > 0 && isfinite(x)) exponent = max(exponent, ilogb(x) + 1 + kNoExponent);
  }
#pragma unroll
  for (int half = 16; half; half /= 2) exponent = max(exponent, __shfl_xor_sync(kWholeWarp, exponent, half));
  if (threadIdx.x % 32 == 0) atomicMax(state, exponent);
}

// Adds the gradient of value [N, S, M, D] to the sums; `grad` [N, Q, M * D] arrives. The other gradients are the work
// of backward_kernel. G lanes a group, each with one channel at a time.
template <class T, int G, bool Fused>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T, 1>)
    fixed_value_kernel(const __grid_constant__ Problem<T> p, const T* grad, const FixedPoint<Real<T>> fixed) {
  using R = Real<T>;
  __shared__ int4 tokens[kMaxThreads];
  __shared__ Real4<T> weights[kMaxThreads];
  const Exchange<G, T> exchange{tokens, weights};
  const Group<Fused, G, T> group(p);
  const R per_unit = ldexp(R(1), -fixed.unit_exponent());
  for (int first = 0; first < p.samples; first += G) {
    exchange.put(group.sample(first + group.lane), group.lane);
    __syncwarp();
    for (int j = 0; j < G; j++) {
      const int at = exchange.slot(j);
      const int token[4] = {tokens[at].x, tokens[at].y, tokens[at].z, tokens[at].w};
      const R weight[4] = {weights[at].x, weights[at].y, weights[at].z, weights[at].w};
      if (token[0] < 0) continue;
      for (int channel = group.lane; channel < p.channels; channel += G) {
        const Pixels<long long> sums = group.pixels(fixed.sums, channel);
        const R g = as_real(grad[group.place.row * p.channels + channel]);
        for (int c = 0; c < 4; c++) {
          if (weight[c] != 0) add_fixed(sums.at(token[c]), weight[c] * g, per_unit, fixed.state + 2);
        }
      }
    }
    __syncwarp();
  }
}

// The sums as values of T.
template <class T>
__global__ void __launch_bounds__(256) from_fixed_kernel(const FixedPoint<Real<T>> fixed, T* to, int64_t count) {
  const double unit = ldexp(1.0, fixed.unit_exponent());
  const bool is_broken = fixed.state[2];
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const double sum = is_broken ? static_cast<double>(NAN) : static_cast<double>(fixed.sums[i]) * unit;
    to[i] = T(static_cast<Real<T>>(sum));
  }
}

}  // namespace gdseg::cuda
