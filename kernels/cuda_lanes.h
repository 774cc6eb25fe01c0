// What the CUDA kernels ask of the hardware: vectors of channels, atomic sums, sums over a group of lanes.
// tests/kernels/cuda_emulation.h stands in for CUDA, so that the kernels can also be run without a GPU.
#pragma once

#ifdef GDSEG_EMULATE_CUDA
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace gdseg::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr unsigned kWholeWarp = 0xffffffffu;

// The type of coordinates, weights and sums beside values of type T, and its vectors.
template <class T>
struct Precision {
  using Real = float;
  using Real2 = float2;
  using Real4 = float4;
};
template <>
struct Precision<double> {
  using Real = double;
  using Real2 = double2;
  struct alignas(16) Real4 {
    double x, y, z, w;
  };
};
template <class T>
using Real = typename Precision<T>::Real;
template <class T>
using Real2 = typename Precision<T>::Real2;
template <class T>
using Real4 = typename Precision<T>::Real4;

__device__ __forceinline__ float as_real(float x) { return x; }
__device__ __forceinline__ double as_real(double x) { return x; }
__device__ __forceinline__ float as_real(Half x) { return static_cast<float>(x); }
__device__ __forceinline__ float as_real(BFloat16 x) { return static_cast<float>(x); }

// --- vectors: V values of T by one load or store of V * sizeof(T) = 2, 4, 8 or 16 bytes ---

// 32-bit words; the address is a multiple of their bytes.
__device__ __forceinline__ void load_words(const void* from, uint32_t (&words)[4]) {
  const uint4 loaded = __ldg(static_cast<const uint4*>(from));
  words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
}
__device__ __forceinline__ void load_words(const void* from, uint32_t (&words)[2]) {
  const uint2 loaded = __ldg(static_cast<const uint2*>(from));
  words[0] = loaded.x, words[1] = loaded.y;
}
__device__ __forceinline__ void load_words(const void* from, uint32_t (&words)[1]) {
  words[0] = __ldg(static_cast<const uint32_t*>(from));
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[4]) {
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[2]) {
  *static_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[1]) {
  *static_cast<uint32_t*>(to) = words[0];
}

// One word as one float or as two 16-bit values, the lower half first, and back.
__device__ __forceinline__ void decode(uint32_t word, float* to, float) { to[0] = __uint_as_float(word); }
__device__ __forceinline__ void decode(uint32_t word, float* to, BFloat16) {
  to[0] = __uint_as_float(word << 16);
  to[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void decode(uint32_t word, float* to, Half) {
  to[0] = as_real(Half(static_cast<unsigned short>(word), Half::from_bits()));
  to[1] = as_real(Half(static_cast<unsigned short>(word >> 16), Half::from_bits()));
}
__device__ __forceinline__ uint32_t encode(const float* from, float) { return __float_as_uint(from[0]); }
template <class T>
__device__ __forceinline__ uint32_t encode(const float* from, T) {
  return static_cast<uint32_t>(T(from[0]).x) | static_cast<uint32_t>(T(from[1]).x) << 16;
}

template <class T, int V>
__device__ __forceinline__ void load(const T* from, Real<T> (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = as_real(*from);
  } else {
    uint32_t words[V * sizeof(T) / 4];
    load_words(from, words);
#pragma unroll
    for (int i = 0; i < V; i += 4 / sizeof(T)) decode(words[i * sizeof(T) / 4], to + i, T());
  }
}

template <class T, int V>
__device__ __forceinline__ void store(T* to, const Real<T> (&from)[V]) {
  if constexpr (V == 1) {
    *to = T(from[0]);
  } else {
    uint32_t words[V * sizeof(T) / 4];
#pragma unroll
    for (int i = 0; i < V; i += 4 / sizeof(T)) words[i * sizeof(T) / 4] = encode(from + i, T());
    store_words(to, words);
  }
}

// x, y pairs, aligned to a pair.
__device__ __forceinline__ float2 load_pair(const float* from) { return __ldg(reinterpret_cast<const float2*>(from)); }
__device__ __forceinline__ double2 load_pair(const double* from) {
  return __ldg(reinterpret_cast<const double2*>(from));
}
template <class T>
__device__ __forceinline__ float2 load_pair(const T* from) {
  float pair[2];
  load(from, pair);
  return {pair[0], pair[1]};
}
template <class T>
__device__ __forceinline__ void store_pair(T* to, Real<T> x, Real<T> y) {
  to[0] = T(x), to[1] = T(y);
}

// --- atomic sums ---

// Four neighbouring numbers by one instruction, where the GPU has it; `to` is aligned to 16 bytes.
__device__ __forceinline__ void add_four(float* to, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(a),
               "f"(b), "f"(c), "f"(d)
               : "memory");
#else
#ifdef GDSEG_EMULATE_CUDA
  emulation::check_aligned(to, 16);
#endif
  atomicAdd(to, a), atomicAdd(to + 1, b), atomicAdd(to + 2, c), atomicAdd(to + 3, d);
#endif
}

// to[0..V) += from
template <class R, int V>
__device__ __forceinline__ void add(R* to, const R (&from)[V]) {
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int i = 0; i < V; i += 4) add_four(to + i, from[i], from[i + 1], from[i + 2], from[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < V; i++) atomicAdd(to + i, from[i]);
  }
}

// --- a group: G neighbouring lanes, G a power of two; every lane of the warp takes part ---

template <int G, class R>
__device__ __forceinline__ R group_sum(R x) {
#pragma unroll
  for (int step = G / 2; step; step /= 2) x += __shfl_xor_sync(kWholeWarp, x, step);
  return x;
}

template <int G, class R>
__device__ __forceinline__ R group_max(R x) {
#pragma unroll
  for (int step = G / 2; step; step /= 2) x = fmax(x, __shfl_xor_sync(kWholeWarp, x, step));
  return x;
}

// Sums of table[j][c] over the lanes of a group: lane i gets those of row i % Rows, in table[0]. Each step hands half
// of the rows to the partner, which takes far fewer shuffles than Rows * 4 separate sums.
template <int G, int Rows, class R>
__device__ __forceinline__ void group_transpose_sum(R (&table)[Rows][4], int lane) {
#pragma unroll
  for (int half = Rows / 2; half; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int j = 0; j < half; j++) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const R keep = upper ? table[j + half][c] : table[j][c];
        const R give = upper ? table[j][c] : table[j + half][c];
        table[j][c] = keep + __shfl_xor_sync(kWholeWarp, give, half);
      }
    }
  }
#pragma unroll
  for (int step = Rows; step < G; step *= 2) {
#pragma unroll
    for (int c = 0; c < 4; c++) table[0][c] += __shfl_xor_sync(kWholeWarp, table[0][c], step);
  }
}

}  // namespace gdseg::cuda
