// The operator in plain C++, for every processor, dtype and size: the truth that cpu_avx2.cpp follows, and what
// runs where that file cannot (float64, channel counts that are no multiple of 8, more than 128 points).
// T is the type in memory, A the type of coordinates and sums.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu.h"

namespace gdseg {
namespace {

// The samples of one query and head: pixel coordinates (integers are pixel centres), attention, and their gradients.
template <class A>
struct Samples {
  explicit Samples(int64_t points) : x(points), y(points), attention(points), dx(points), dy(points), da(points) {}
  std::vector<A> x, y, attention, dx, dy, da;
};

// The four pixels around a sample: shares, and places in the value (none: outside).
template <class A>
struct Corners {
  A right, down;  // fractions
  A share[4];
  bool inside[4];
  int64_t token[4];
};

template <class A>
Corners<A> corners_of(const Level& level, A x, A y) {
  Corners<A> c{};
  // also false for NaN; what is left fits an integer
  if (!(x >= -1 && y >= -1 && x < A(level.width) && y < A(level.height))) return c;
  const int64_t left = static_cast<int64_t>(std::floor(x)), top = static_cast<int64_t>(std::floor(y));
  c.right = x - A(left);
  c.down = y - A(top);
  for (int i = 0; i < 4; i++) {
    const int64_t column = left + (i & 1), row = top + (i >> 1);
    c.inside[i] = column >= 0 && row >= 0 && column < level.width && row < level.height;
    c.token[i] = level.start + row * level.width + column;
    c.share[i] = (i & 1 ? c.right : 1 - c.right) * (i >> 1 ? c.down : 1 - c.down);
  }
  return c;
}

template <class A>
struct Reference {
  A x, y;                // centre, 0..1
  A half_w, half_h;      // anchors: half a box shared among the points
  bool anchor;
};

template <class A>
Reference<A> reference_of(const Task& task, const Part& part, int64_t query) {
  const A* r = static_cast<const A*>(task.references) + reference_row(task, part, query) * task.reference_dims;
  if (task.reference_dims == 2) return {r[0], r[1], A(0), A(0), false};
  return {r[0], r[1], r[2] * A(0.5) / A(task.P), r[3] * A(0.5) / A(task.P), true};
}

template <class T, class A>
void softmax(const T* logits, int64_t count, std::vector<A>& out) {
  A top = -std::numeric_limits<A>::infinity(), sum = 0;
  for (int64_t k = 0; k < count; k++) top = std::max(top, A(logits[k]));
  for (int64_t k = 0; k < count; k++) sum += out[k] = std::exp(A(logits[k]) - top);
  for (int64_t k = 0; k < count; k++) out[k] /= sum;
}

template <class T, class A>
void read_fused(const Task& task, const Part& part, int64_t query, Samples<A>& samples) {
  const int64_t row = row_of(task, part, query, part.first_head), K = task.points();
  const T* offsets = static_cast<const T*>(task.places) + row * K * 2;
  const Reference<A> ref = reference_of<A>(task, part, query);
  softmax(static_cast<const T*>(task.weights) + row * K, K, samples.attention);
  for (int64_t k = 0; k < K; k++) {
    const A w = A(task.levels[k / task.P].width), h = A(task.levels[k / task.P].height);
    samples.x[k] = ref.x * w - A(0.5) + A(offsets[2 * k]) * (ref.anchor ? ref.half_w * w : A(1));
    samples.y[k] = ref.y * h - A(0.5) + A(offsets[2 * k + 1]) * (ref.anchor ? ref.half_h * h : A(1));
  }
}

// In grid_sample's order of rounding: on the border of two pixels both paths then take the same side.
template <class A>
A pixel_of(A location, int64_t length) {
  return std::fma((location * 2 - 1) + 1, A(length) / 2, A(-0.5));
}

template <class A>
void read_plain(const Task& task, const Part& part, int64_t query, Samples<A>& samples) {
  const int64_t row = row_of(task, part, query, part.first_head), K = task.points();
  const A* locations = static_cast<const A*>(task.places) + row * K * 2;
  const A* weights = static_cast<const A*>(task.weights) + row * K;
  for (int64_t k = 0; k < K; k++) {
    samples.x[k] = pixel_of(locations[2 * k], task.levels[k / task.P].width);
    samples.y[k] = pixel_of(locations[2 * k + 1], task.levels[k / task.P].height);
    samples.attention[k] = weights[k];
  }
}

template <class T, class A>
void read_samples(const Task& task, const Part& part, int64_t query, Samples<A>& samples) {
  if (task.fused)
    read_fused<T, A>(task, part, query, samples);
  else
    read_plain<A>(task, part, query, samples);
}

template <class T, class A>
void forward(const Task& task, const Part& part, void*) {
  const int64_t D = task.D, stride = task.M * D;
  const T* value = static_cast<const T*>(task.value) + part.image * task.S * stride + part.first_head * D;
  Samples<A> samples(task.points());
  std::vector<A> sum(D);
  for (int64_t q = part.first_query; q < part.end_query; q++) {
    read_samples<T, A>(task, part, q, samples);
    std::fill(sum.begin(), sum.end(), A(0));
    for (int64_t k = 0; k < task.points(); k++) {
      const Corners<A> c = corners_of(task.levels[k / task.P], samples.x[k], samples.y[k]);
      for (int i = 0; i < 4; i++) {
        if (!c.inside[i]) continue;
        const A share = c.share[i] * samples.attention[k];
        const T* pixel = value + c.token[i] * stride;
        for (int64_t d = 0; d < D; d++) sum[d] += share * A(pixel[d]);
      }
    }
    T* out = static_cast<T*>(task.out) + row_of(task, part, q, part.first_head) * D;
    for (int64_t d = 0; d < D; d++) out[d] = T(sum[d]);
  }
}

// Gradient of one sample's coordinates and attention from the products of `grad` with its four pixels.
template <class T, class A>
void sample_gradient(const Corners<A>& c, const T* value, int64_t stride, const T* grad, int64_t D, int64_t k,
                     Samples<A>& samples) {
  A dot[4] = {};
  for (int i = 0; i < 4; i++)
    if (c.inside[i])
      for (int64_t d = 0; d < D; d++) dot[i] += A(grad[d]) * A(value[c.token[i] * stride + d]);
  const A above = dot[1] - dot[0], below = dot[3] - dot[2];
  const A top = dot[0] + c.right * above, bottom = dot[2] + c.right * below;
  samples.da[k] = top + c.down * (bottom - top);
  samples.dx[k] = samples.attention[k] * (above + c.down * (below - above));
  samples.dy[k] = samples.attention[k] * (bottom - top);
}

template <class T, class A>
void spread_gradient(const Corners<A>& c, A attention, const T* grad, int64_t D, A* grad_value) {
  for (int i = 0; i < 4; i++) {
    if (!c.inside[i]) continue;
    const A share = c.share[i] * attention;
    for (int64_t d = 0; d < D; d++) grad_value[c.token[i] * D + d] += share * A(grad[d]);
  }
}

template <class A>
void write_plain(const Task& task, const Part& part, int64_t query, const Samples<A>& samples) {
  const int64_t row = row_of(task, part, query, part.first_head), K = task.points();
  A* places = static_cast<A*>(task.grad_places) + row * K * 2;
  A* weights = static_cast<A*>(task.grad_weights) + row * K;
  for (int64_t k = 0; k < K; k++) {
    places[2 * k] = samples.dx[k] * A(task.levels[k / task.P].width);
    places[2 * k + 1] = samples.dy[k] * A(task.levels[k / task.P].height);
    weights[k] = samples.da[k];
  }
}

// `factor` may be infinite or NaN where a sample had no gradient: it stays without one.
template <class A>
A times(A gradient, A factor) {
  return gradient == 0 ? A(0) : gradient * factor;
}

template <class T, class A>
void write_fused(const Task& task, const Part& part, int64_t query, const Samples<A>& samples) {
  const int64_t row = row_of(task, part, query, part.first_head), K = task.points();
  const T* offsets = static_cast<const T*>(task.places) + row * K * 2;
  T* grad_offsets = static_cast<T*>(task.grad_places) + row * K * 2;
  T* grad_logits = static_cast<T*>(task.grad_weights) + row * K;
  const Reference<A> ref = reference_of<A>(task, part, query);
  A mean = 0, references[4] = {};
  for (int64_t k = 0; k < K; k++) {
    const A w = A(task.levels[k / task.P].width), h = A(task.levels[k / task.P].height);
    const A dx = samples.dx[k] * w, dy = samples.dy[k] * h, share = A(0.5) / A(task.P);
    mean += samples.attention[k] * samples.da[k];
    grad_offsets[2 * k] = T(ref.anchor ? times(dx, ref.half_w) : samples.dx[k]);
    grad_offsets[2 * k + 1] = T(ref.anchor ? times(dy, ref.half_h) : samples.dy[k]);
    references[0] += dx;
    references[1] += dy;
    references[2] += times(dx, A(offsets[2 * k]) * share);
    references[3] += times(dy, A(offsets[2 * k + 1]) * share);
  }
  for (int64_t k = 0; k < K; k++) grad_logits[k] = T(samples.attention[k] * (samples.da[k] - mean));
  A* shares = static_cast<A*>(task.grad_references) +
              ((part.image * task.M + part.first_head) * task.Q + query) * task.reference_dims;
  std::copy(references, references + task.reference_dims, shares);
}

// First and last token + 1 of the part's levels.
int64_t first_token(const Task& task, const Part& part) { return task.levels[part.first_level].start; }
int64_t end_token(const Task& task, const Part& part) {
  const Level& last = task.levels[part.end_level - 1];
  return last.start + last.height * last.width;
}

template <class T, class A>
void backward(const Task& task, const Part& part, void* scratch) {
  const int64_t D = task.D, stride = task.M * D;
  const int64_t offset = part.image * task.S * stride + part.first_head * D;
  const T* value = static_cast<const T*>(task.value) + offset;
  A* grad_value = static_cast<A*>(scratch);
  Samples<A> samples(task.points());
  if (part.want_value)
    std::fill(grad_value + first_token(task, part) * D, grad_value + end_token(task, part) * D, A(0));
  for (int64_t q = part.first_query; q < part.end_query; q++) {
    const T* grad = static_cast<const T*>(task.grad) + row_of(task, part, q, part.first_head) * D;
    read_samples<T, A>(task, part, q, samples);
    for (int64_t k = part.first_level * task.P; k < part.end_level * task.P; k++) {
      const Corners<A> c = corners_of(task.levels[k / task.P], samples.x[k], samples.y[k]);
      if (part.want_places) sample_gradient(c, value, stride, grad, D, k, samples);
      if (part.want_value) spread_gradient(c, samples.attention[k], grad, D, grad_value);
    }
    if (part.want_places && task.fused) write_fused<T, A>(task, part, q, samples);
    if (part.want_places && !task.fused) write_plain<A>(task, part, q, samples);
  }
  if (!part.want_value) return;
  T* out = static_cast<T*>(task.grad_value) + offset;
  for (int64_t s = first_token(task, part); s < end_token(task, part); s++)
    for (int64_t d = 0; d < D; d++) out[s * stride + d] = T(grad_value[s * D + d]);
}

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

void forward_any(const Task& task, const Part& part, void* scratch) {
  switch (task.dtype) {
    case Dtype::kFloat32: return forward<float, float>(task, part, scratch);
    case Dtype::kFloat64: return forward<double, double>(task, part, scratch);
    case Dtype::kBFloat16: return forward<BFloat16, float>(task, part, scratch);
    case Dtype::kFloat16: return forward<Half, float>(task, part, scratch);
  }
}

void backward_any(const Task& task, const Part& part, void* scratch) {
  switch (task.dtype) {
    case Dtype::kFloat32: return backward<float, float>(task, part, scratch);
    case Dtype::kFloat64: return backward<double, double>(task, part, scratch);
    case Dtype::kBFloat16: return backward<BFloat16, float>(task, part, scratch);
    case Dtype::kFloat16: return backward<Half, float>(task, part, scratch);
  }
}

// Backward sums a head's gradient of the value in one dense block [S, D].
int64_t scratch_bytes(const Task& task, bool backward) {
  const int64_t number = task.dtype == Dtype::kFloat64 ? sizeof(double) : sizeof(float);
  return backward ? task.S * task.D * number : 0;
}

bool joins_heads(const Task&, bool) { return false; }

}  // namespace

const Implementation kPortable = {"portable C++", joins_heads, scratch_bytes, forward_any, backward_any};

}  // namespace gdseg
