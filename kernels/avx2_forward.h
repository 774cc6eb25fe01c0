// Forward of cpu_avx2.cpp: where pixels are read from, and their weighted sums. Internal linkage only, see cpu.h.
#pragma once

#include "avx2_samples.h"

namespace gdseg {
namespace {

constexpr int64_t kSamplesForACopy = 8;   // samples a pixel from which copying a head pays
constexpr int64_t kPixelsAhead = 16;      // fetched early while a head is copied

bool copy_pays(const Task& task) { return task.Q * task.points() * 4 >= kSamplesForACopy * task.S; }

// One head's pixels: its first one and the distance to the next, in numbers.
template <class T>
struct Pixels {
  const T* first;
  int64_t stride;
};

template <class T>
Pixels<T> pixels_in_place(const Task& task, const Part& part, int64_t head) {
  const int64_t stride = task.M * task.D;
  return {static_cast<const T*>(task.value) + part.image * task.S * stride + head * task.D, stride};
}

// Copies the head [S, D] of a part out of [S, M, D] and puts a row of zeros behind it.
template <class T, int V>
Pixels<T> dense_copy(const Task& task, const Part& part, T* copy) {
  constexpr int64_t D = V * kLanes;
  const Pixels<T> from = pixels_in_place<T>(task, part, part.first_head);
  for (int64_t s = 0; s < task.S; s++) {
    prefetch_row(from.first + (s + kPixelsAhead) * from.stride, 0, D * sizeof(T));
    std::memcpy(copy + s * D, from.first + s * from.stride, D * sizeof(T));
  }
  std::memset(static_cast<void*>(copy + task.S * D), 0, D * sizeof(T));
  return {copy, D};
}

// The pixel of a token; zeros for a sample outside.
template <class T, int D, bool kDense>
inline const T* pixel_at(const Pixels<T>& pixels, int32_t token, int64_t tokens) {
  alignas(64) static const T kZeros[D] = {};
  if (kDense) return pixels.first + static_cast<int64_t>(token) * D;
  return token == tokens ? kZeros : pixels.first + token * pixels.stride;
}

// Weighted sum of a row's samples; V vectors of 8 channels. Two sets of sums hide the adder's latency. In place the
// next row's pixels are fetched meanwhile, one by one: the processor can wait for some twenty at a time.
template <class T, int V, int K, bool kDense>
inline void gather(const Task& task, const Pixels<T>& pixels, const Samples& s, const Pixels<T>& next_pixels,
                         const Samples& next, T* out) {
  constexpr int D = V * kLanes;
  __m256 sum[2][V];
  for (int v = 0; v < V; v++) sum[0][v] = sum[1][v] = _mm256_setzero_ps();
  const int count = points_of<K>(task);
  for (int k = 0; k < count; k++) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      if (!kDense) prefetch_row(next_pixels.first + next.token[c][k] * next_pixels.stride, 0, D * sizeof(T));
      const T* pixel = pixel_at<T, D, kDense>(pixels, s.token[c][k], task.S);
      const __m256 share = _mm256_broadcast_ss(s.share[c] + k);
      __m256 channels[V];
      load_channels<V>(pixel, channels);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) sum[c & 1][v] = _mm256_fmadd_ps(share, channels[v], sum[c & 1][v]);
    }
  }
  for (int v = 0; v < V; v++) sum[0][v] = _mm256_add_ps(sum[0][v], sum[1][v]);
  store_channels<V>(out, sum[0]);
}

template <class T, int V, int K, bool kDense>
void forward_part(const Task& task, const Part& part, void* scratch) {
  constexpr int D = V * kLanes;
  Pixels<T> pixels{}, next{};
  if (kDense) pixels = dense_copy<T, V>(task, part, static_cast<T*>(scratch));
  SampleStream<T, K> stream(task, part);
  while (!stream.at_end()) {
    stream.advance();
    if (!kDense) pixels = pixels_in_place<T>(task, part, stream.row().head);
    if (!kDense) next = pixels_in_place<T>(task, part, stream.next_row().head);
    prefetch_row(task.out, stream.row_far_ahead(), D * sizeof(T));
    T* out = static_cast<T*>(task.out) + stream.row().index * D;
    gather<T, V, K, kDense>(task, pixels, stream.samples(), next, stream.next_samples(), out);
  }
}

template <class T, int V, int K>
void forward(const Task& task, const Part& part, void* scratch) {
  if (copy_pays(task)) return forward_part<T, V, K, true>(task, part, scratch);
  forward_part<T, V, K, false>(task, part, scratch);
}

}  // namespace
}  // namespace gdseg
