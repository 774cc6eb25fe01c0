// Backward of cpu_avx2.cpp: gradients of places, weights and references row by row, and the sums of the gradient of
// value. Internal linkage only, see cpu.h.
#pragma once

#include <type_traits>

#include "avx2_forward.h"

namespace gdseg {
namespace {

// Products of the arriving gradient with the four pixels of each point, and their gradients with respect to
// pixel coordinates and attention.
struct PointGradients {
  alignas(32) float product[kMaxPoints][4];
  alignas(32) float x[kMaxPoints], y[kMaxPoints], attention[kMaxPoints];
};

inline void finish_points(int count, const Samples& s, PointGradients& g) {
  for (int k = 0; k < count; k += kLanes) {
    __m256 corner[4];
    transpose_8x4(g.product + k, corner);
    const __m256 right = _mm256_load_ps(s.right + k), down = _mm256_load_ps(s.down + k);
    const __m256 attention = _mm256_load_ps(s.attention + k);
    const __m256 above = _mm256_sub_ps(corner[1], corner[0]), below = _mm256_sub_ps(corner[3], corner[2]);
    const __m256 top = _mm256_fmadd_ps(right, above, corner[0]), bottom = _mm256_fmadd_ps(right, below, corner[2]);
    const __m256 dx = _mm256_fmadd_ps(down, _mm256_sub_ps(below, above), above), dy = _mm256_sub_ps(bottom, top);
    _mm256_store_ps(g.x + k, _mm256_mul_ps(dx, attention));
    _mm256_store_ps(g.y + k, _mm256_mul_ps(dy, attention));
    _mm256_store_ps(g.attention + k, _mm256_fmadd_ps(down, dy, top));
  }
}

template <int K>
inline void write_plain(const Task& task, int64_t row, const PointLevels& levels, const PointGradients& g) {
  const int count = points_of<K>(task);
  float* places = static_cast<float*>(task.grad_places) + row * count * 2;
  float* weights = static_cast<float*>(task.grad_weights) + row * count;
  for (int k = 0; k < count; k += kLanes) {
    const __m256 width = _mm256_load_ps(levels.width + k), height = _mm256_load_ps(levels.height + k);
    const Pairs d = {_mm256_mul_ps(_mm256_load_ps(g.x + k), width), _mm256_mul_ps(_mm256_load_ps(g.y + k), height)};
    store_pairs(places + 2 * k, count - k, d);
    store_some(weights + k, count - k, _mm256_load_ps(g.attention + k));
  }
}

// gradient * factor, where a gradient of zero stays zero beside an infinite or NaN factor.
inline __m256 times(__m256 gradient, __m256 factor) {
  const __m256 some = _mm256_cmp_ps(gradient, _mm256_setzero_ps(), _CMP_NEQ_UQ);
  return _mm256_and_ps(_mm256_mul_ps(gradient, factor), some);
}

template <class T, int K>
inline void write_offsets(const Task& task, const Part& part, const Row& row, const PointLevels& levels,
                          const PointGradients& g) {
  const int count = points_of<K>(task);
  const T* offsets = static_cast<const T*>(task.places) + row.index * count * 2;
  T* grad_offsets = static_cast<T*>(task.grad_places) + row.index * count * 2;
  const Reference ref = reference_of(task, part, row.query);
  const __m256 half = _mm256_set1_ps(0.5f / static_cast<float>(task.P));
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int k = 0; k < count; k += kLanes) {
    const __m256 width = _mm256_load_ps(levels.width + k), height = _mm256_load_ps(levels.height + k);
    const __m256 x = _mm256_load_ps(g.x + k), y = _mm256_load_ps(g.y + k);
    const __m256 dx = _mm256_mul_ps(x, width), dy = _mm256_mul_ps(y, height);
    sum[0] = _mm256_add_ps(sum[0], dx);
    sum[1] = _mm256_add_ps(sum[1], dy);
    Pairs d = {x, y};
    if (ref.anchor) {
      const Pairs offset = load_pairs(offsets + 2 * k, count - k);
      sum[2] = _mm256_add_ps(sum[2], times(dx, _mm256_mul_ps(offset.x, half)));
      sum[3] = _mm256_add_ps(sum[3], times(dy, _mm256_mul_ps(offset.y, half)));
      d = {times(dx, _mm256_set1_ps(ref.half_w)), times(dy, _mm256_set1_ps(ref.half_h))};
    }
    store_pairs(grad_offsets + 2 * k, count - k, d);
  }
  float* shares = static_cast<float*>(task.grad_references) +
                  ((part.image * task.M + row.head) * task.Q + row.query) * task.reference_dims;
  alignas(16) float sums[4];
  _mm_store_ps(sums, sums_of(sum[0], sum[1], sum[2], sum[3]));
  std::memcpy(shares, sums, task.reference_dims * sizeof(float));
}

// Through the softmax: attention * (gradient - the attention's mean gradient).
template <class T, int K>
inline void write_logits(const Task& task, int64_t row, const Samples& s, const PointGradients& g) {
  const int count = points_of<K>(task);
  T* logits = static_cast<T*>(task.grad_weights) + row * count;
  __m256 sum = _mm256_setzero_ps();
  for (int k = 0; k < count; k += kLanes)
    sum = _mm256_fmadd_ps(_mm256_load_ps(s.attention + k), _mm256_load_ps(g.attention + k), sum);
  const __m256 mean = _mm256_set1_ps(sum_of(sum));
  for (int k = 0; k < count; k += kLanes) {
    const __m256 above = _mm256_sub_ps(_mm256_load_ps(g.attention + k), mean);
    store_some(logits + k, count - k, _mm256_mul_ps(_mm256_load_ps(s.attention + k), above));
  }
}

// Where the gradient of one head's pixels is summed: its first pixel, the distance to the next, and a row for what falls
// outside.
struct Sums {
  float* first;
  int64_t stride;
  float* outside;

  float* at(int32_t token, int64_t tokens) const { return token == tokens ? outside : first + token * stride; }
};

// What a row of the backward pass reads and adds to.
template <class T>
struct Work {
  Pixels<T> pixels;
  Sums sums;
};

// One row: products with its pixels into g.product, its share of their gradients onto the sums.
template <class T, int V, bool kPlaces, bool kValue, bool kDense>
inline void spread(const Work<T>& work, const T* grad, const Samples& s, const Work<T>& next_work,
                         const Samples& next, int first, int end, int64_t tokens, PointGradients& g) {
  constexpr int D = V * kLanes;
  __m256 arriving[V];
  load_channels<V>(grad, arriving);
  for (int k = first; k < end; k++) {
    __m256 product[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const int32_t token = s.token[c][k], next_token = next.token[c][k];
      if (kPlaces) {
        if (!kDense) prefetch_row(next_work.pixels.first + next_token * next_work.pixels.stride, 0, D * sizeof(T));
        __m256 channels[V];
        load_channels<V>(pixel_at<T, D, kDense>(work.pixels, token, tokens), channels);
        product[c] = _mm256_mul_ps(arriving[0], channels[0]);
#pragma GCC unroll 8
        for (int v = 1; v < V; v++) product[c] = _mm256_fmadd_ps(arriving[v], channels[v], product[c]);
      }
      if (kValue) {
        if (!kDense) prefetch_row(next_work.sums.first + next_token * next_work.sums.stride, 0, D * sizeof(float));
        const __m256 share = _mm256_broadcast_ss(s.share[c] + k);
        float* sum = kDense ? work.sums.first + static_cast<int64_t>(token) * D : work.sums.at(token, tokens);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          float* lanes = sum + kLanes * v;
          _mm256_storeu_ps(lanes, _mm256_fmadd_ps(share, arriving[v], _mm256_loadu_ps(lanes)));
        }
      }
    }
    if (kPlaces) _mm_store_ps(g.product[k], sums_of(product[0], product[1], product[2], product[3]));
  }
}

// Tokens of the levels of a part.
struct Tokens {
  int64_t first, end;
};
Tokens tokens_of(const Task& task, const Part& part) {
  const Level& last = task.levels[part.end_level - 1];
  return {task.levels[part.first_level].start, last.start + last.height * last.width};
}

// Sums in float32 of many samples fill a dense block [S + 1, D] of the thread's own first, and so do those of values of
// 16 bits; a decoder's few go to where they belong.
template <class T>
bool sums_in_place(const Task& task) {
  return std::is_same<T, float>::value && !copy_pays(task);
}

// Zeros of a part's heads and levels in the gradient of value, which is summed in place.
template <int D>
void clear_in_place(const Task& task, const Part& part) {
  const Tokens tokens = tokens_of(task, part);
  const int64_t heads = part.end_head - part.first_head;
  float* first = static_cast<float*>(task.grad_value) + (part.image * task.S * task.M + part.first_head) * D;
  if (heads == task.M) {
    std::memset(first + tokens.first * task.M * D, 0, (tokens.end - tokens.first) * task.M * D * sizeof(float));
    return;
  }
  for (int64_t s = tokens.first; s < tokens.end; s++)
    std::memset(first + s * task.M * D, 0, heads * D * sizeof(float));
}

template <int D>
Sums clear_block(const Task& task, const Part& part, float* block) {
  const Tokens tokens = tokens_of(task, part);
  std::memset(block + tokens.first * D, 0, (tokens.end - tokens.first) * D * sizeof(float));
  std::memset(block + task.S * D, 0, D * sizeof(float));
  return {block, D, block + task.S * D};
}

// From the dense block to where the sums belong.
template <class T, int V>
void write_block(const Task& task, const Part& part, const float* block) {
  constexpr int D = V * kLanes;
  const int64_t stride = task.M * D;
  T* to = static_cast<T*>(task.grad_value) + part.image * task.S * stride + part.first_head * D;
  const Tokens tokens = tokens_of(task, part);
  // streaming stores of whole cache lines (fp32 only): written once, not read again here, so never fetched first
  const bool past_caches =
      std::is_same<T, float>::value && D * sizeof(T) % kCacheLine == 0 && reinterpret_cast<uintptr_t>(to) % kCacheLine == 0;
  for (int64_t s = tokens.first; s < tokens.end; s++) {
    __m256 channels[V];
    for (int v = 0; v < V; v++) channels[v] = load8(block + s * D + kLanes * v);
    if (past_caches)
      stream_channels<V>(reinterpret_cast<float*>(to + s * stride), channels);
    else
      store_channels<V>(to + s * stride, channels);
  }
  _mm_sfence();
}

// What the rows of one head read and add to, where values or sums are in place; other fields stay.
template <class T, int D>
inline void look_at_head(const Task& task, const Part& part, int64_t head, bool pixels, bool sums, Work<T>& work) {
  if (pixels) work.pixels = pixels_in_place<T>(task, part, head);
  const int64_t stride = task.M * D;
  if (sums) work.sums.first = static_cast<float*>(task.grad_value) + part.image * task.S * stride + head * D;
}

template <class T, int V, int K, bool kPlaces, bool kValue, bool kDense>
void backward_part(const Task& task, const Part& part, void* scratch) {
  constexpr int D = V * kLanes;
  const bool in_place = kValue && sums_in_place<T>(task);
  float* block = static_cast<float*>(scratch);
  alignas(64) float outside[D] = {};
  Work<T> work{{}, {nullptr, task.M * D, outside}};
  if (kPlaces && kDense) work.pixels = dense_copy<T, V>(task, part, reinterpret_cast<T*>(block + (task.S + 1) * D));
  if (in_place) clear_in_place<D>(task, part);
  if (kValue && !in_place) work.sums = clear_block<D>(task, part, block);
  Work<T> next = work;
  SampleStream<T, K> stream(task, part);
  PointGradients points{};
  const int count = points_of<K>(task);
  const int first = kPlaces ? 0 : static_cast<int>(part.first_level * task.P);
  const int end = kPlaces ? count : static_cast<int>(part.end_level * task.P);
  while (!stream.at_end()) {
    stream.advance();
    const Row& row = stream.row();
    const Samples& samples = stream.samples();
    look_at_head<T, D>(task, part, row.head, !kDense, in_place, work);
    look_at_head<T, D>(task, part, stream.next_row().head, !kDense, in_place, next);
    const T* grad = static_cast<const T*>(task.grad) + row.index * D;
    const int64_t far = stream.row_far_ahead();
    prefetch_row(task.grad, far, D * sizeof(T));
    if (kPlaces) prefetch_row(task.grad_places, far, count * 2 * (task.fused ? sizeof(T) : sizeof(float)));
    if (kPlaces) prefetch_row(task.grad_weights, far, count * (task.fused ? sizeof(T) : sizeof(float)));
    spread<T, V, kPlaces, kValue, kDense>(work, grad, samples, next, stream.next_samples(), first, end, task.S, points);
    if (!kPlaces) continue;
    finish_points(count, samples, points);
    if (task.fused) {
      write_offsets<T, K>(task, part, row, stream.levels(), points);
      write_logits<T, K>(task, row.index, samples, points);
    } else {
      write_plain<K>(task, row.index, stream.levels(), points);
    }
  }
  if (kValue && !in_place) write_block<T, V>(task, part, block);
}

template <class T, int V, int K, bool kDense>
void backward_of(const Task& task, const Part& part, void* scratch) {
  if (part.want_places && part.want_value) return backward_part<T, V, K, true, true, kDense>(task, part, scratch);
  if (part.want_places) return backward_part<T, V, K, true, false, kDense>(task, part, scratch);
  return backward_part<T, V, K, false, true, kDense>(task, part, scratch);
}

template <class T, int V, int K>
void backward(const Task& task, const Part& part, void* scratch) {
  if (copy_pays(task)) return backward_of<T, V, K, true>(task, part, scratch);
  backward_of<T, V, K, false>(task, part, scratch);
}

}  // namespace
}  // namespace gdseg
