// Backward of multi-scale deformable attention on CUDA; the way of working is told in cuda_sampling.h.
//
// For each sample a lane multiplies the arriving gradient with the four pixels and adds its part of the gradient of
// value to them; the products, summed over the group, come back to the lane which worked the sample out, and it
// finishes the gradients of location and weight. Only the gradient of value is summed over queries, by atomics.
#pragma once

#include "cuda_forward.h"

namespace gdseg::cuda {

// Where the gradients go; sizes as in Problem.
template <class T>
struct GradientsOf {
  const T* out;          // the gradient that arrives
  Real<T>* value;        // zeros at the start; null: left to fixed_value_kernel
  Real<T>* locations;    // [N, Q, M, L, P, 2]
  Real<T>* weights;      // [N, Q, M, L * P]; fused: gradient before the softmax's own, scratch
  Real<T>* references;   // fused: each head's share, [N, Q, M, 2 or 4]
  T* offsets;            // fused
  T* logits;             // fused
};

// Derivatives of the sample's product with the arriving gradient.
template <class R>
struct SampleGradient {
  R share;  // by the attention weight
  R x, y;   // by the position in pixels
};

template <class R>
__device__ __forceinline__ SampleGradient<R> differentiate(const Sample<R>& s, const R (&products)[4]) {
  if (!s.is_inside) return {0, 0, 0};
  const R left_top = s.has_left && s.has_top ? products[0] : 0;
  const R right_top = s.has_right && s.has_top ? products[1] : 0;
  const R left_bottom = s.has_left && s.has_bottom ? products[2] : 0;
  const R right_bottom = s.has_right && s.has_bottom ? products[3] : 0;
  const R top = left_top + s.x * (right_top - left_top);
  const R bottom = left_bottom + s.x * (right_bottom - left_bottom);
  const R slope_top = right_top - left_top, slope_bottom = right_bottom - left_bottom;
  return {top + s.y * (bottom - top), s.share * (slope_top + s.y * (slope_bottom - slope_top)),
          s.share * (bottom - top)};
}

// products[c] += <grad, value at corner c>; the gradient of value there += weight * grad.
template <class T, int V>
__device__ __forceinline__ void follow_corners(const Pixels<const T>& value, const Pixels<Real<T>>& grad_value,
                                               const int4& tokens, const Real4<T>& weights,
                                               const Real<T> (&grad)[V], Real<T> (&products)[4]) {
  const int token[4] = {tokens.x, tokens.y, tokens.z, tokens.w};
  const Real<T> weight[4] = {weights.x, weights.y, weights.z, weights.w};
  Real<T> corner[4][V];
#pragma unroll
  for (int c = 0; c < 4; c++) load(value.at(token[c]), corner[c]);
#pragma unroll
  for (int c = 0; c < 4; c++) {
#pragma unroll
    for (int v = 0; v < V; v++) products[c] += grad[v] * corner[c][v];
  }
  if (grad_value.first == nullptr) return;
#pragma unroll
  for (int c = 0; c < 4; c++) {
    Real<T> part[V];
#pragma unroll
    for (int v = 0; v < V; v++) part[v] = weight[c] * grad[v];
    if (weight[c] != 0) add(grad_value.at(token[c]), part);
  }
}

// The gradients of sample k: final, but for the weight's in the fused entry. Adds to the reference's gradient.
template <bool Fused, int G, class T>
__device__ __forceinline__ void write_sample(const Group<Fused, G, T>& group, const GradientsOf<T>& to, int k,
                                             const Sample<Real<T>>& s, const SampleGradient<Real<T>>& grad,
                                             Reference<Real<T>>& of_reference) {
  using R = Real<T>;
  const int64_t at = group.row_of_sample(k);
  to.weights[at] = grad.share;
  const R by_x = s.is_inside ? grad.x * s.width : 0, by_y = s.is_inside ? grad.y * s.height : 0;  // by the location
  if constexpr (!Fused) {
    store_pair<R>(to.locations + at * 2, by_x, by_y);
  } else if (!s.is_inside) {
    store_pair<T>(to.offsets + at * 2, 0, 0);
  } else {
    const Real2<T> pixels = pixels_per_offset(group.p, group.reference, s);
    store_pair<T>(to.offsets + at * 2, grad.x * pixels.x, grad.y * pixels.y);
    of_reference.x += by_x, of_reference.y += by_y;
    of_reference.width += by_x * group.p.half_share * s.offset_x;
    of_reference.height += by_y * group.p.half_share * s.offset_y;
  }
}

// The softmax's gradient and the head's share of the reference's. `mean` is this lane's part of sum(share * grad).
template <int G, class T>
__device__ __forceinline__ void finish_fused(const Group<true, G, T>& group, const GradientsOf<T>& to, Real<T> mean,
                                             const Reference<Real<T>>& of_reference) {
  mean = group_sum<G>(mean);
  const Real<T> x = group_sum<G>(of_reference.x), y = group_sum<G>(of_reference.y);
  const Real<T> width = group_sum<G>(of_reference.width), height = group_sum<G>(of_reference.height);
  if (!group.place.is_real) return;
  for (int k = group.lane; k < group.p.samples; k += G) {
    const int64_t at = group.row_of_sample(k);
    to.logits[at] = T(group.share(k) * (to.weights[at] - mean));
  }
  if (group.lane != 0) return;
  Real<T>* head = to.references + group.place.row * group.p.reference_dims;
  store_pair<Real<T>>(head, x, y);
  if (group.p.reference_dims == 4) store_pair<Real<T>>(head + 2, width, height);
}

// The gradient of value by the group's samples begin .. begin + Rows, and this lane's part of their products.
template <int V, int Channels, int Rows, bool Fused, int G, class T>
__device__ __forceinline__ void follow_samples(const Group<Fused, G, T>& group, const Exchange<G, T>& exchange,
                                               const GradientsOf<T>& to, int begin,
                                               Real<T> (&products)[Rows][4]) {
  for (int slice = 0; slice < slices_of<V, G, Channels>(group.p.channels); slice++) {
    const int channel = (slice * G + group.lane) * V;
    const bool has_channels = Channels || channel < group.p.channels;
    const Pixels<const T> value = group.pixels(group.p.value, channel);
    const Pixels<Real<T>> grad_value = to.value ? group.pixels(to.value, channel) : Pixels<Real<T>>{};
    Real<T> grad[V] = {};
    if (has_channels) load(to.out + group.place.row * group.p.channels + channel, grad);
#pragma unroll
    for (int j = 0; j < Rows; j++) {
      const int at = exchange.slot(begin + j);
      const int4 corners = exchange.tokens[at];
      if (corners.x < 0 || !has_channels) continue;
      follow_corners(value, grad_value, corners, exchange.weights[at], grad, products[j]);
    }
  }
}

// Template arguments as of forward_kernel.
template <class T, int V, int G, int Channels, bool Fused>
__global__ void __launch_bounds__(kMaxThreads, sizeof(T) == 8 ? 1 : 2)
    backward_kernel(const __grid_constant__ Problem<T> p, const __grid_constant__ GradientsOf<T> to) {
  using R = Real<T>;
  constexpr int Rows = G < 4 ? G : 4;  // samples followed between two sums over the group: more would not fit
  __shared__ int4 tokens[kMaxThreads];
  __shared__ Real4<T> weights[kMaxThreads];
  const Exchange<G, T> exchange{tokens, weights};
  const Group<Fused, G, T> group(p);
  Reference<R> of_reference{};
  R mean = 0;
  for (int first = 0; first < p.samples; first += G) {
    const int k = first + group.lane;
    const Sample<R> sample = group.sample(k);
    exchange.put(sample, group.lane);
    __syncwarp();
    SampleGradient<R> grad{};
    for (int begin = 0; begin < G; begin += Rows) {
      R products[Rows][4] = {};
      follow_samples<V, Channels>(group, exchange, to, begin, products);
      group_transpose_sum<G>(products, group.lane);
      if (group.lane / Rows * Rows == begin) grad = differentiate(sample, products[0]);
    }
    __syncwarp();
    mean += sample.share * grad.share;
    if (group.place.is_real && k < p.samples) write_sample(group, to, k, sample, grad, of_reference);
  }
  if constexpr (Fused) finish_fused(group, to, mean, of_reference);
}

}  // namespace gdseg::cuda
