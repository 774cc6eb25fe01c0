// The operator for x86-64 with AVX2, FMA and F16C: float32, and bfloat16 or float16 in memory with float32 sums.
//
// What makes it fast, each measured:
// - the coordinates of 8 points at once; levels * points known at compile time for 12, 16 and 20;
// - a dense copy of one head [S + 1, D] when there are many more samples than pixels: neighbours share cache lines,
//   and samples outside read its last row, zeros, so that the inner loop has no branch;
// - no other temporary: queries pass through arrays that stay in the first-level cache.
#include "cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <type_traits>

#include "avx2_samples.h"

namespace gdseg {
namespace {

constexpr int64_t kSamplesForACopy = 8;   // samples a pixel from which copying the head pays

// Where a part reads its values and with which stride from token to token.
template <class T>
struct Head {
  const T* value;
  int64_t stride;
  bool dense;
};

// Copies the part's head [S, D] out of [S, M, D] and puts a row of zeros behind it.
template <class T>
Head<T> dense_head(const Task& task, const Part& part, T* copy) {
  const int64_t stride = task.M * task.D;
  const T* from = static_cast<const T*>(task.value) + part.image * task.S * stride + part.head * task.D;
  for (int64_t s = 0; s < task.S; s++) std::memcpy(copy + s * task.D, from + s * stride, task.D * sizeof(T));
  std::memset(static_cast<void*>(copy + task.S * task.D), 0, task.D * sizeof(T));
  return {copy, task.D, true};
}

template <class T>
Head<T> head_in_place(const Task& task, const Part& part) {
  const int64_t stride = task.M * task.D;
  return {static_cast<const T*>(task.value) + part.image * task.S * stride + part.head * task.D, stride, false};
}

bool copy_pays(const Task& task) { return task.Q * task.points() * 4 >= kSamplesForACopy * task.S; }

template <class T, int D, bool kDense>
inline const T* pixel_at(const Head<T>& head, int32_t token, int64_t tokens) {
  alignas(64) static const T kZeros[D] = {};
  if (kDense) return head.value + static_cast<int64_t>(token) * D;
  return token == tokens ? kZeros : head.value + token * head.stride;
}

// Weighted sum of a query's samples; V vectors of 8 channels. Two sets of sums hide the adder's latency.
template <class T, int V, int K, bool kDense>
inline void gather(const Task& task, const Head<T>& head, const Samples& s, T* out) {
  __m256 sum[2][V];
  for (int v = 0; v < V; v++) sum[0][v] = sum[1][v] = _mm256_setzero_ps();
  const int count = points_of<K>(task);
  for (int k = 0; k < count; k++) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const T* pixel = pixel_at<T, V * kLanes, kDense>(head, s.token[c][k], task.S);
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

// The samples of one query after the other, each known while its predecessor is worked on: in place, where pixels
// come from far away, they are fetched meanwhile.
template <class T, int K>
class SampleStream {
 public:
  SampleStream(const Task& task, const Part& part, const Head<T>& head)
      : task_(task), part_(part), head_(head), levels_(point_levels(task)) {
    if (part.first_query < part.end_query) read(part.first_query);
  }
  const PointLevels& levels() const { return levels_; }

  // Queries must be asked for in order.
  const Samples& at(int64_t query) {
    if (query + 1 < part_.end_query) read(query + 1);
    return samples_[query & 1];
  }

 private:
  void read(int64_t query) {
    Samples& samples = samples_[query & 1];
    read_samples<T, K>(task_, part_, query, levels_, samples);
    if (head_.dense) return;
    for (int k = 0; k < points_of<K>(task_); k++)
      for (int c = 0; c < 4; c++)
        prefetch_row(head_.value + samples.token[c][k] * head_.stride, 0, task_.D * sizeof(T));
  }

  const Task& task_;
  const Part& part_;
  const Head<T>& head_;
  const PointLevels levels_;
  Samples samples_[2];
};

template <class T, int V, int K>
void forward(const Task& task, const Part& part, void* scratch) {
  Head<T> head = head_in_place<T>(task, part);
  if (copy_pays(task)) head = dense_head<T>(task, part, static_cast<T*>(scratch));
  SampleStream<T, K> stream(task, part, head);
  for (int64_t q = part.first_query; q < part.end_query; q++) {
    const Samples& samples = stream.at(q);
    T* out = static_cast<T*>(task.out) + row_of(task, part, q) * V * kLanes;
    prefetch_row(task.out, row_of(task, part, q + kQueriesAhead), V * kLanes * sizeof(T));
    if (head.dense)
      gather<T, V, K, true>(task, head, samples, out);
    else
      gather<T, V, K, false>(task, head, samples, out);
  }
}

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
inline void write_offsets(const Task& task, const Part& part, int64_t query, const PointLevels& levels,
                          const PointGradients& g) {
  const int count = points_of<K>(task);
  const int64_t row = row_of(task, part, query) * count * 2;
  const T* offsets = static_cast<const T*>(task.places) + row;
  T* grad_offsets = static_cast<T*>(task.grad_places) + row;
  const Reference ref = reference_of(task, part, query);
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
                  ((part.image * task.M + part.head) * task.Q + query) * task.reference_dims;
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

// One query: products with its pixels into g.product, its share of their gradients onto grad_value [S + 1, D].
template <class T, int V, bool kPlaces, bool kValue, bool kDense>
inline void spread(const Head<T>& head, const T* grad, const Samples& s, int first, int end, int64_t tokens,
                   PointGradients& g, float* grad_value) {
  __m256 arriving[V];
  load_channels<V>(grad, arriving);
  for (int k = first; k < end; k++) {
    __m256 product[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const int32_t token = s.token[c][k];
      if (kPlaces) {
        __m256 channels[V];
        load_channels<V>(pixel_at<T, V * kLanes, kDense>(head, token, tokens), channels);
        product[c] = _mm256_mul_ps(arriving[0], channels[0]);
#pragma GCC unroll 8
        for (int v = 1; v < V; v++) product[c] = _mm256_fmadd_ps(arriving[v], channels[v], product[c]);
      }
      if (kValue) {
        const __m256 share = _mm256_broadcast_ss(s.share[c] + k);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          float* sum = grad_value + (static_cast<int64_t>(token) * V + v) * kLanes;
          _mm256_storeu_ps(sum, _mm256_fmadd_ps(share, arriving[v], _mm256_loadu_ps(sum)));
        }
      }
    }
    if (kPlaces) _mm_store_ps(g.product[k], sums_of(product[0], product[1], product[2], product[3]));
  }
}

// Rows of the levels of a part in [S, D]; the row S takes what falls outside.
struct Rows {
  int64_t first, end;
};
Rows rows_of(const Task& task, const Part& part) {
  const Level& last = task.levels[part.end_level - 1];
  return {task.levels[part.first_level].start, last.start + last.height * last.width};
}

template <class T, int V>
void write_value(const Task& task, const Part& part, const float* grad_value) {
  constexpr int D = V * kLanes;
  const int64_t stride = task.M * D;
  T* to = static_cast<T*>(task.grad_value) + part.image * task.S * stride + part.head * D;
  const Rows rows = rows_of(task, part);
  // streaming stores of whole cache lines (fp32 only): written once, not read again here, so never fetched first
  const bool past_caches =
      std::is_same<T, float>::value && D * sizeof(T) % kCacheLine == 0 && reinterpret_cast<uintptr_t>(to) % kCacheLine == 0;
  for (int64_t s = rows.first; s < rows.end; s++) {
    __m256 channels[V];
    for (int v = 0; v < V; v++) channels[v] = load8(grad_value + s * D + kLanes * v);
    if (past_caches)
      stream_channels<V>(reinterpret_cast<float*>(to + s * stride), channels);
    else
      store_channels<V>(to + s * stride, channels);
  }
  _mm_sfence();
}

template <class T, int V, int K, bool kPlaces, bool kValue>
void backward_part(const Task& task, const Part& part, void* scratch) {
  constexpr int D = V * kLanes;
  float* grad_value = static_cast<float*>(scratch);
  Head<T> head = head_in_place<T>(task, part);
  if (kPlaces && copy_pays(task)) head = dense_head<T>(task, part, reinterpret_cast<T*>(grad_value + (task.S + 1) * D));
  if (kValue) {
    const Rows rows = rows_of(task, part);
    std::memset(grad_value + rows.first * D, 0, (rows.end - rows.first) * D * sizeof(float));
    std::memset(grad_value + task.S * D, 0, D * sizeof(float));
  }
  SampleStream<T, K> stream(task, part, head);
  PointGradients points{};
  const int count = points_of<K>(task);
  const int first = kPlaces ? 0 : static_cast<int>(part.first_level * task.P);
  const int end = kPlaces ? count : static_cast<int>(part.end_level * task.P);
  for (int64_t q = part.first_query; q < part.end_query; q++) {
    const int64_t row = row_of(task, part, q);
    const Samples& samples = stream.at(q);
    const T* grad = static_cast<const T*>(task.grad) + row * D;
    const int64_t ahead = row_of(task, part, q + kQueriesAhead);
    prefetch_row(task.grad, ahead, D * sizeof(T));
    if (kPlaces) prefetch_row(task.grad_places, ahead, count * 2 * (task.fused ? sizeof(T) : sizeof(float)));
    if (kPlaces) prefetch_row(task.grad_weights, ahead, count * (task.fused ? sizeof(T) : sizeof(float)));
    if (head.dense)
      spread<T, V, kPlaces, kValue, true>(head, grad, samples, first, end, task.S, points, grad_value);
    else
      spread<T, V, kPlaces, kValue, false>(head, grad, samples, first, end, task.S, points, grad_value);
    if (!kPlaces) continue;
    finish_points(count, samples, points);
    if (task.fused) {
      write_offsets<T, K>(task, part, q, stream.levels(), points);
      write_logits<T, K>(task, row, samples, points);
    } else {
      write_plain<K>(task, row, stream.levels(), points);
    }
  }
  if (kValue) write_value<T, V>(task, part, grad_value);
}

template <class T, int V, int K>
void backward(const Task& task, const Part& part, void* scratch) {
  if (part.want_places && part.want_value) return backward_part<T, V, K, true, true>(task, part, scratch);
  if (part.want_places) return backward_part<T, V, K, true, false>(task, part, scratch);
  return backward_part<T, V, K, false, true>(task, part, scratch);
}

// From numbers known now to numbers known to the compiler: dtype, channels / 8, levels * points (0: any).
template <class T, int V>
void run_points(const Task& task, const Part& part, void* scratch, bool backwards) {
  const auto go = [&](auto f, auto b) { backwards ? b(task, part, scratch) : f(task, part, scratch); };
  switch (task.points()) {
    case 12: return go(forward<T, V, 12>, backward<T, V, 12>);
    case 16: return go(forward<T, V, 16>, backward<T, V, 16>);
    case 20: return go(forward<T, V, 20>, backward<T, V, 20>);
    default: return go(forward<T, V, 0>, backward<T, V, 0>);
  }
}

template <class T>
void run_channels(const Task& task, const Part& part, void* scratch, bool backwards) {
  switch (task.D) {
    case 8: return run_points<T, 1>(task, part, scratch, backwards);
    case 16: return run_points<T, 2>(task, part, scratch, backwards);
    case 32: return run_points<T, 4>(task, part, scratch, backwards);
    case 64: return run_points<T, 8>(task, part, scratch, backwards);
  }
}

void run(const Task& task, const Part& part, void* scratch, bool backwards) {
  switch (task.dtype) {
    case Dtype::kFloat32: return run_channels<float>(task, part, scratch, backwards);
    case Dtype::kBFloat16: return run_channels<BFloat16Bits>(task, part, scratch, backwards);
    case Dtype::kFloat16: return run_channels<Float16Bits>(task, part, scratch, backwards);
    case Dtype::kFloat64: return;  // avx2_can_do says no
  }
}

void run_forward(const Task& task, const Part& part, void* scratch) { run(task, part, scratch, false); }
void run_backward(const Task& task, const Part& part, void* scratch) { run(task, part, scratch, true); }

int64_t scratch_bytes(const Task& task, bool backward) {
  const int64_t numbers = (task.S + 1) * task.D, size = task.dtype == Dtype::kFloat32 ? 4 : 2;
  const int64_t copy = copy_pays(task) ? numbers * size : 0;
  return copy + (backward ? numbers * static_cast<int64_t>(sizeof(float)) : 0);
}

}  // namespace

const Implementation kAvx2 = {"AVX2", scratch_bytes, run_forward, run_backward};

bool avx2_was_built() { return true; }

bool avx2_can_do(const Task& task) {
  const bool channels = task.D == 8 || task.D == 16 || task.D == 32 || task.D == 64;
  return channels && task.dtype != Dtype::kFloat64 && task.points() <= kMaxPoints && task.S < kMaxTokens;
}

}  // namespace gdseg

#else

namespace gdseg {

const Implementation kAvx2 = {"AVX2", nullptr, nullptr, nullptr};

bool avx2_was_built() { return false; }

bool avx2_can_do(const Task&) { return false; }

}  // namespace gdseg

#endif
