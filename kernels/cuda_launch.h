// Which instance of a kernel runs, and over how many blocks.
//
// `Device` has launch(kernel, blocks, threads, arguments...): a GPU's stream in cuda_device.h, a CPU in
// tests/kernels/cuda_emulation.cpp.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda_backward.h"
#include "cuda_fixed_point.h"
#include "level.h"

namespace gdseg::cuda {

// At most kMaxLevels levels, fewer than 2^31 tokens.
inline Levels level_table(const Level* levels, int count) {
  Levels table{};
  table.count = count;
  for (int l = 0; l < count; l++) {
    const bool is_empty = levels[l].height == 0 || levels[l].width == 0;
    table.height[l] = is_empty ? -1 : static_cast<int>(levels[l].height);
    table.width[l] = is_empty ? -1 : static_cast<int>(levels[l].width);
    table.start[l] = static_cast<int>(levels[l].start);
  }
  return table;
}

template <int Vector, int Group, int Known>
struct Layout {
  static constexpr int V = Vector, G = Group, Channels = Known;
};

// 16-byte loads for the usual channel counts; 4 values a load where they divide the channels; else one by one.
template <class T, class Run>
void with_layout(int channels, Run run) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int V = 16 / sizeof(T);
    if (channels == 16) return run(Layout<V, 16 / V, 16>());
    if (channels == 32) return run(Layout<V, 32 / V, 32>());
    if (channels == 64) return run(Layout<V, 8, 64>());
    if (channels % 4 == 0) return run(Layout<4, 8, 0>());
  }
  run(Layout<1, 8, 0>());
}

// A decoder's few queries are spread over more, smaller blocks.
template <int G, class Device, class T, class... Parameters, class... Arguments>
void launch_groups(const Device& device, void (*kernel)(Parameters...), const Problem<T>& p,
                   const Arguments&... arguments) {
  const int64_t rows = static_cast<int64_t>(p.images) * p.heads;
  const int threads = rows * p.queries * G < (1 << 17) ? 64 : kMaxThreads;
  const int64_t groups = threads / G, patches = (p.queries + groups - 1) / groups;
  device.launch(kernel, rows * patches, threads, p, arguments...);
}

template <bool Fused, class Device, class T>
void launch_forward(const Device& device, const Problem<T>& p, T* out) {
  with_layout<T>(p.channels, [&](auto layout) {
    using L = decltype(layout);
    launch_groups<L::G>(device, forward_kernel<T, L::V, L::G, L::Channels, Fused>, p, out);
  });
}

template <bool Fused, class Device, class T>
void launch_backward(const Device& device, const Problem<T>& p, const GradientsOf<T>& to) {
  with_layout<T>(p.channels, [&](auto layout) {
    using L = decltype(layout);
    launch_groups<L::G>(device, backward_kernel<T, L::V, L::G, L::Channels, Fused>, p, to);
  });
}

template <class Device, class T>
void launch_largest_exponent(const Device& device, const T* values, int64_t count, int* state) {
  const int64_t blocks = std::clamp<int64_t>((count + 255) / 256, 1, 4096);
  device.launch(largest_exponent_kernel<T>, blocks, 256, values, count, state);
}

// The gradient of value alone, deterministic: `sums` (as value) and `state` (3) are zeros, `result` is as value.
template <bool Fused, class Device, class T>
void launch_fixed_value(const Device& device, const Problem<T>& p, const T* grad, long long* sums, int* state,
                        T* result) {
  constexpr int G = 8;
  const int64_t images = p.images, rows = images * p.queries * p.heads;
  const int64_t values = images * p.tokens * p.heads * p.channels;
  FixedPoint<Real<T>> fixed{sums, state, 0, Fused};
  while (static_cast<int64_t>(p.queries) * p.samples >> fixed.count_bits) fixed.count_bits++;
  launch_largest_exponent(device, grad, rows * p.channels, state);
  if (!Fused) launch_largest_exponent(device, p.weights, rows * p.samples, state + 1);
  launch_groups<G>(device, fixed_value_kernel<T, G, Fused>, p, grad, fixed);
  const int64_t blocks = std::clamp<int64_t>((values + 255) / 256, 1, 4096);
  device.launch(from_fixed_kernel<T>, blocks, 256, fixed, result, values);
}

}  // namespace gdseg::cuda
