// How cpu_avx2.cpp reads one query and head: from locations and weights, or from offsets and logits, to the four pixels of each
// sample and their shares, 8 samples at once. Internal linkage only, see cpu.h.
#pragma once

#include <algorithm>
#include <limits>

#include "avx2_math.h"
#include "cpu.h"

// the compiler thinks these too long, but what they share with their neighbours is worth more than their length
#define GDSEG_INLINE __attribute__((always_inline)) inline

namespace gdseg {
namespace {

constexpr int kMaxPoints = 128;           // levels * points; more go to the portable path
constexpr int64_t kMaxTokens = 1 << 24;   // token numbers are computed in float32, exact up to here
constexpr int64_t kCacheLine = 64;
constexpr int64_t kQueriesAhead = 6;      // whose rows are fetched early

// The level of each point, spelled out so that 8 points are one load.
struct PointLevels {
  alignas(32) float width[kMaxPoints], height[kMaxPoints], start[kMaxPoints];
};

// The samples of one query and head. Of corner c (left above, right above, left below, right below) of point k:
// its token (S: outside) and its bilinear share times attention.
struct Samples {
  alignas(32) int32_t token[4][kMaxPoints];
  alignas(32) float share[4][kMaxPoints];
  alignas(32) float right[kMaxPoints], down[kMaxPoints], attention[kMaxPoints];
};

PointLevels point_levels(const Task& task) {
  PointLevels levels;
  for (int k = 0; k < kMaxPoints; k++) {
    const Level& level = task.levels[std::min<int64_t>(k / task.P, task.L - 1)];
    levels.width[k] = static_cast<float>(level.width);
    levels.height[k] = static_cast<float>(level.height);
    levels.start[k] = static_cast<float>(level.start);
  }
  return levels;
}

template <class T>
GDSEG_INLINE void softmax(const T* logits, int count, float* out) {
  __m256 top = _mm256_set1_ps(-std::numeric_limits<float>::infinity()), sum = _mm256_setzero_ps();
  for (int k = 0; k < count; k += kLanes) {
    const __m256 row = load_some(logits + k, count - k, -std::numeric_limits<float>::infinity());
    top = _mm256_max_ps(row, top);
    _mm256_store_ps(out + k, row);
  }
  top = _mm256_set1_ps(max_of(top));
  for (int k = 0; k < count; k += kLanes) {
    const __m256 power = exp_of(_mm256_sub_ps(_mm256_load_ps(out + k), top));
    sum = _mm256_add_ps(sum, power);
    _mm256_store_ps(out + k, power);
  }
  const __m256 scale = _mm256_set1_ps(1.f / sum_of(sum));
  for (int k = 0; k < count; k += kLanes)
    _mm256_store_ps(out + k, _mm256_mul_ps(scale, _mm256_load_ps(out + k)));
}

// One query's reference: centre in 0..1 and, for anchors, half a box shared among the points.
struct Reference {
  float x, y, half_w, half_h;
  bool anchor;

  // How many pixels an offset of 1 is, and where offset 0 lies.
  __m256 scale(float half, __m256 length) const {
    return anchor ? _mm256_mul_ps(_mm256_set1_ps(half), length) : _mm256_set1_ps(1.f);
  }
  static __m256 origin(float centre, __m256 length) {
    return _mm256_fmsub_ps(_mm256_set1_ps(centre), length, _mm256_set1_ps(0.5f));
  }
};

inline Reference reference_of(const Task& task, const Part& part, int64_t query) {
  const float* r = static_cast<const float*>(task.references) + reference_row(task, part, query) * task.reference_dims;
  if (task.reference_dims == 2) return {r[0], r[1], 0.f, 0.f, false};
  const float share = 0.5f / static_cast<float>(task.P);
  return {r[0], r[1], r[2] * share, r[3] * share, true};
}

// The lower pixel of each of 8 samples, its fraction, and which of the two pixels lie on the level.
struct Axis {
  __m256 low, high, fraction, low_inside, high_inside;
};

// Clamped to just outside the level first (a NaN too), so that everything after is finite.
inline Axis axis_of(__m256 pixel, __m256 length) {
  const __m256 one = _mm256_set1_ps(1.f), zero = _mm256_setzero_ps();
  pixel = _mm256_min_ps(_mm256_max_ps(pixel, _mm256_set1_ps(-2.f)), _mm256_add_ps(length, one));
  Axis axis;
  axis.low = _mm256_floor_ps(pixel);
  axis.high = _mm256_add_ps(axis.low, one);
  axis.fraction = _mm256_sub_ps(pixel, axis.low);
  axis.low_inside =
      _mm256_and_ps(_mm256_cmp_ps(axis.low, zero, _CMP_GE_OQ), _mm256_cmp_ps(axis.low, length, _CMP_LT_OQ));
  axis.high_inside =
      _mm256_and_ps(_mm256_cmp_ps(axis.high, zero, _CMP_GE_OQ), _mm256_cmp_ps(axis.high, length, _CMP_LT_OQ));
  return axis;
}

inline void place_corner(Samples& s, int corner, int k, __m256 token, __m256 inside, __m256 outside, __m256 share) {
  const __m256i index = _mm256_cvttps_epi32(_mm256_blendv_ps(outside, token, inside));
  _mm256_store_si256(reinterpret_cast<__m256i*>(s.token[corner] + k), index);
  _mm256_store_ps(s.share[corner] + k, share);
}

// Corners and shares of points k..k+7 at the given pixel coordinates.
GDSEG_INLINE void place(Samples& s, const PointLevels& levels, int k, Pairs pixel, __m256 outside) {
  const __m256 width = _mm256_load_ps(levels.width + k), one = _mm256_set1_ps(1.f);
  const Axis x = axis_of(pixel.x, width), y = axis_of(pixel.y, _mm256_load_ps(levels.height + k));
  const __m256 attention = _mm256_load_ps(s.attention + k);
  const __m256 above = _mm256_mul_ps(_mm256_sub_ps(one, y.fraction), attention);
  const __m256 below = _mm256_mul_ps(y.fraction, attention), left = _mm256_sub_ps(one, x.fraction);
  const __m256 row = _mm256_fmadd_ps(y.low, width, _mm256_load_ps(levels.start + k));
  const __m256 next_row = _mm256_add_ps(row, width);
  const auto both = [](__m256 a, __m256 b) { return _mm256_and_ps(a, b); };
  const auto add = [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); };
  const auto times = [](__m256 a, __m256 b) { return _mm256_mul_ps(a, b); };
  place_corner(s, 0, k, add(row, x.low), both(x.low_inside, y.low_inside), outside, times(left, above));
  place_corner(s, 1, k, add(row, x.high), both(x.high_inside, y.low_inside), outside, times(x.fraction, above));
  place_corner(s, 2, k, add(next_row, x.low), both(x.low_inside, y.high_inside), outside, times(left, below));
  place_corner(s, 3, k, add(next_row, x.high), both(x.high_inside, y.high_inside), outside, times(x.fraction, below));
  _mm256_store_ps(s.right + k, x.fraction);
  _mm256_store_ps(s.down + k, y.fraction);
}

template <int K>
inline int points_of(const Task& task) {
  return K ? K : static_cast<int>(task.points());
}

template <class T, int K>
GDSEG_INLINE void read_fused(const Task& task, int64_t row, const Reference& ref, const PointLevels& levels, Samples& s) {
  const int count = points_of<K>(task);
  const T* offsets = static_cast<const T*>(task.places) + row * count * 2;
  const __m256 outside = _mm256_set1_ps(static_cast<float>(task.S));
  softmax(static_cast<const T*>(task.weights) + row * count, count, s.attention);
  for (int k = 0; k < count; k += kLanes) {
    const __m256 width = _mm256_load_ps(levels.width + k), height = _mm256_load_ps(levels.height + k);
    Pairs at = load_pairs(offsets + 2 * k, count - k);
    at.x = _mm256_fmadd_ps(at.x, ref.scale(ref.half_w, width), Reference::origin(ref.x, width));
    at.y = _mm256_fmadd_ps(at.y, ref.scale(ref.half_h, height), Reference::origin(ref.y, height));
    place(s, levels, k, at, outside);
  }
}

// In grid_sample's order of rounding: on the border of two pixels both paths then take the same side.
inline __m256 pixel_of(__m256 location, __m256 length) {
  const __m256 one = _mm256_set1_ps(1.f), half = _mm256_set1_ps(0.5f);
  const __m256 doubled = _mm256_add_ps(_mm256_sub_ps(_mm256_add_ps(location, location), one), one);
  return _mm256_fmsub_ps(doubled, _mm256_mul_ps(length, half), half);
}

template <int K>
GDSEG_INLINE void read_plain(const Task& task, int64_t row, const PointLevels& levels, Samples& s) {
  const int count = points_of<K>(task);
  const float* locations = static_cast<const float*>(task.places) + row * count * 2;
  const float* weights = static_cast<const float*>(task.weights) + row * count;
  const __m256 outside = _mm256_set1_ps(static_cast<float>(task.S));
  for (int k = 0; k < count; k += kLanes) {
    Pairs at = load_pairs(locations + 2 * k, count - k);
    at.x = pixel_of(at.x, _mm256_load_ps(levels.width + k));
    at.y = pixel_of(at.y, _mm256_load_ps(levels.height + k));
    _mm256_store_ps(s.attention + k, load_some(weights + k, count - k, 0.f));
    place(s, levels, k, at, outside);
  }
}

// Reading past the end is allowed to a prefetch. Inlined by force: as a function GCC 12 takes it for one without an
// effect and drops the calls.
GDSEG_INLINE void prefetch_row(const void* tensor, int64_t row, int64_t bytes) {
  const char* at = static_cast<const char*>(tensor) + row * bytes;
  for (int64_t i = 0; i < bytes; i += kCacheLine) _mm_prefetch(at + i, _MM_HINT_T0);
  if (bytes % kCacheLine) _mm_prefetch(at + bytes - 1, _MM_HINT_T0);
}

// A query and head of a part; a query's heads follow one another, as in memory.
struct Row {
  int64_t query, head;
  int64_t index;  // in a tensor [N, Q, M, ...]
};

// The samples of a part's rows, one row after the other. Each row is read while its predecessor is worked on, so that
// its pixels, if they come from far away, can be fetched meanwhile.
template <class T, int K>
class SampleStream {
 public:
  SampleStream(const Task& task, const Part& part)
      : task_(task), part_(part), levels_(point_levels(task)), ahead_(row_at(part.first_query, part.first_head)) {
    if (!at_end()) read();
  }
  const PointLevels& levels() const { return levels_; }
  bool at_end() const { return ahead_.query >= part_.end_query; }

  // To the next row; to be called while not at_end().
  void advance() {
    now_ = ahead_;
    turn_ ^= 1;
    const bool is_last_head = now_.head + 1 == part_.end_head;
    ahead_ = is_last_head ? row_at(now_.query + 1, part_.first_head) : row_at(now_.query, now_.head + 1);
    if (!at_end()) read();
  }
  const Row& row() const { return now_; }
  const Samples& samples() const { return samples_[turn_]; }
  const Row& next_row() const { return ahead_; }                      // at the end: a row that is not there,
  const Samples& next_samples() const { return samples_[turn_ ^ 1]; }  // with samples of another

  // The row of the same head some queries on: one head's rows lie a page apart or nearly so, too far for the processor
  // to see the pattern.
  int64_t row_far_ahead() const { return now_.index + kQueriesAhead * task_.M; }

 private:
  Row row_at(int64_t query, int64_t head) const { return {query, head, row_of(task_, part_, query, head)}; }

  // not inlined: it does not depend on the number of channels, and there are many instances of those who call it
  __attribute__((noinline)) void read() {
    const int64_t size = task_.fused ? sizeof(T) : sizeof(float), far = ahead_.index + kQueriesAhead * task_.M;
    Samples& samples = samples_[turn_ ^ 1];
    prefetch_row(task_.places, far, points_of<K>(task_) * 2 * size);
    prefetch_row(task_.weights, far, points_of<K>(task_) * size);
    if (task_.fused)
      read_fused<T, K>(task_, ahead_.index, reference_of(task_, part_, ahead_.query), levels_, samples);
    else
      read_plain<K>(task_, ahead_.index, levels_, samples);
  }

  const Task& task_;
  const Part& part_;
  const PointLevels levels_;
  Row now_{}, ahead_;
  int turn_ = 0;
  Samples samples_[2]{};
};

}  // namespace
}  // namespace gdseg
