// Forward of multi-scale deformable attention on CUDA; the way of working is told in cuda_sampling.h.
#pragma once

#include "cuda_sampling.h"

namespace gdseg::cuda {

// Slices of G * V channels that a group goes through one after the other.
template <int V, int G, int Channels>
__device__ __forceinline__ int slices_of(int channels) {
  return Channels ? Channels / (G * V) : (channels - 1) / (G * V) + 1;
}

// sum += weight * value at four pixels.
template <class T, int V>
__device__ __forceinline__ void add_corners(const Pixels<const T>& value, const int4& tokens, const Real4<T>& weights,
                                            Real<T> (&sum)[V]) {
  Real<T> corner[4][V];
  load(value.at(tokens.x), corner[0]);
  load(value.at(tokens.y), corner[1]);
  load(value.at(tokens.z), corner[2]);
  load(value.at(tokens.w), corner[3]);
#pragma unroll
  for (int v = 0; v < V; v++) {
    sum[v] += weights.x * corner[0][v];
    sum[v] += weights.y * corner[1][v];
    sum[v] += weights.z * corner[2][v];
    sum[v] += weights.w * corner[3][v];
  }
}

// Blocks that a multiprocessor shall hold. 4 leave 64 registers a thread, enough for the instances with vector loads.
template <class T, int V>
constexpr int kBlocks = sizeof(T) == 8 || V == 1 ? 2 : 4;

// out [N, Q, M * D]. V channels a lane, G lanes a group; Channels = D where it is known (a multiple of G * V), else 0.
template <class T, int V, int G, int Channels, bool Fused>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T, V>)
    forward_kernel(const __grid_constant__ Problem<T> p, T* out) {
  __shared__ int4 tokens[kMaxThreads];
  __shared__ Real4<T> weights[kMaxThreads];
  const Exchange<G, T> exchange{tokens, weights};
  const Group<Fused, G, T> group(p);
  for (int slice = 0; slice < slices_of<V, G, Channels>(p.channels); slice++) {
    const int channel = (slice * G + group.lane) * V;
    const bool has_channels = Channels || channel < p.channels;
    const Pixels<const T> value = group.pixels(p.value, channel);
    Real<T> sum[V] = {};
    for (int first = 0; first < p.samples; first += G) {
      exchange.put(group.sample(first + group.lane), group.lane);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < G; j++) {
        const int at = exchange.slot(j);
        const int4 corners = tokens[at];
        if (corners.x < 0 || !has_channels) continue;
        add_corners<T>(value, corners, weights[at], sum);
      }
      __syncwarp();
    }
    if (group.place.is_real && has_channels) store(out + group.place.row * p.channels + channel, sum);
  }
}

}  // namespace gdseg::cuda
