// Small AVX2 helpers of cpu_avx2.cpp: rows of float32, bfloat16 and float16 numbers as vectors of 8 floats.
// Internal linkage only, see cpu.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gdseg {
namespace {

constexpr int kLanes = 8;

struct BFloat16Bits {
  uint16_t bits;
};
struct Float16Bits {
  uint16_t bits;
};

inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const BFloat16Bits* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m256 load8(const Float16Bits* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline void store8(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
inline void store8(BFloat16Bits* p, __m256 v) {  // to the nearest, ties to even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
  const __m256i high = _mm256_srli_epi32(kept, 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xD8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store8(Float16Bits* p, __m256 v) {
  const __m128i bits = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
}

// A pixel's V * 8 channels. Two neighbouring bfloat16 are one 32-bit number: a shift makes the first a float, a mask
// the second, so 16 channels are one load, the even ones in a vector and the odd ones in the next. What is computed
// lane by lane or summed over all lanes need not know; store_channels brings the order back.
template <int V, class T>
inline void load_channels(const T* p, __m256 (&channels)[V]) {
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) channels[v] = load8(p + kLanes * v);
}
template <int V>
inline void load_channels(const BFloat16Bits* p, __m256 (&channels)[V]) {
  if (V == 1) {
    channels[0] = load8(p);
    return;
  }
#pragma GCC unroll 4
  for (int v = 0; v + 1 < V; v += 2) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + kLanes * v));
    channels[v] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    channels[v + 1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
}

template <int V, class T>
inline void store_channels(T* p, const __m256 (&channels)[V]) {
  for (int v = 0; v < V; v++) store8(p + kLanes * v, channels[v]);
}
template <int V>
inline void store_channels(BFloat16Bits* p, const __m256 (&channels)[V]) {
  if (V == 1) return store8(p, channels[0]);
  for (int v = 0; v + 1 < V; v += 2) {
    const __m256 low = _mm256_unpacklo_ps(channels[v], channels[v + 1]);
    const __m256 high = _mm256_unpackhi_ps(channels[v], channels[v + 1]);
    store8(p + kLanes * v, _mm256_permute2f128_ps(low, high, 0x20));
    store8(p + kLanes * (v + 1), _mm256_permute2f128_ps(low, high, 0x31));
  }
}

template <int V>
inline void stream_channels(float* p, const __m256 (&channels)[V]) {
  for (int v = 0; v < V; v++) _mm256_stream_ps(p + kLanes * v, channels[v]);
}

inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first `count` (any number) of 8 numbers, `pad` in the other lanes.
template <class T>
inline __m256 load_some(const T* p, int count, float pad) {
  if (count >= kLanes) return load8(p);
  if (count <= 0) return _mm256_set1_ps(pad);
  T row[kLanes] = {};
  std::memcpy(row, p, count * sizeof(T));
  return _mm256_blendv_ps(_mm256_set1_ps(pad), load8(row), _mm256_castsi256_ps(first_lanes(count)));
}
inline __m256 load_some(const float* p, int count, float pad) {
  if (count >= kLanes) return load8(p);
  if (count <= 0) return _mm256_set1_ps(pad);
  const __m256i lanes = first_lanes(count);
  return _mm256_blendv_ps(_mm256_set1_ps(pad), _mm256_maskload_ps(p, lanes), _mm256_castsi256_ps(lanes));
}

template <class T>
inline void store_some(T* p, int count, __m256 v) {
  if (count >= kLanes) return store8(p, v);
  if (count <= 0) return;
  T row[kLanes];
  store8(row, v);
  std::memcpy(p, row, count * sizeof(T));
}

// `count` pairs (x, y) from memory -> 8 x and 8 y.
struct Pairs {
  __m256 x, y;
};
template <class T>
inline Pairs load_pairs(const T* p, int count) {
  const __m256 a = load_some(p, 2 * count, 0.f), b = load_some(p + kLanes, 2 * count - kLanes, 0.f);
  const __m256d x = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
  const __m256d y = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(x, 0xD8)), _mm256_castpd_ps(_mm256_permute4x64_pd(y, 0xD8))};
}
template <class T>
inline void store_pairs(T* p, int count, Pairs pairs) {
  const __m256 low = _mm256_unpacklo_ps(pairs.x, pairs.y), high = _mm256_unpackhi_ps(pairs.x, pairs.y);
  store_some(p, 2 * count, _mm256_permute2f128_ps(low, high, 0x20));
  store_some(p + kLanes, 2 * count - kLanes, _mm256_permute2f128_ps(low, high, 0x31));
}

inline float sum_of(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float max_of(__m256 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
// The sums of four vectors, in one.
inline __m128 sums_of(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

// e^x for x <= 0 to 2 units in the last place; 0 below -87 (denormal numbers are slow); NaN stays NaN.
// 2^n by the exponent's bits, the rest by the Taylor-like polynomial of Cephes (S. Moshier, public domain).
inline __m256 exp_of(__m256 x) {
  const __m256 not_tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.f), _CMP_NLT_UQ);
  x = _mm256_max_ps(_mm256_set1_ps(-87.f), x);  // this order keeps NaN
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 y = _mm256_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c));
  y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.f)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(y, _mm256_castsi256_ps(power)), not_tiny);
}

// Rows 0..7 of four numbers each -> the four columns.
inline void transpose_8x4(const float (*rows)[4], __m256 columns[4]) {
  __m256 pair[4];
  for (int i = 0; i < 4; i++)
    pair[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(rows[i])), _mm_load_ps(rows[i + 4]), 1);
  const __m256 a = _mm256_unpacklo_ps(pair[0], pair[1]), b = _mm256_unpackhi_ps(pair[0], pair[1]);
  const __m256 c = _mm256_unpacklo_ps(pair[2], pair[3]), d = _mm256_unpackhi_ps(pair[2], pair[3]);
  columns[0] = _mm256_shuffle_ps(a, c, 0x44);
  columns[1] = _mm256_shuffle_ps(a, c, 0xEE);
  columns[2] = _mm256_shuffle_ps(b, d, 0x44);
  columns[3] = _mm256_shuffle_ps(b, d, 0xEE);
}

}  // namespace
}  // namespace gdseg
