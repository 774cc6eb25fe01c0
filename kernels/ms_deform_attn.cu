// The CUDA implementation of the operators in library.cpp: arguments, memory and launches. The kernels themselves are
// in cuda_forward.h and cuda_backward.h. tests/kernels/cuda_emulation.cpp compiles this file for a CPU.
#include <algorithm>

#ifndef GDSEG_EMULATE_CUDA
#include "cuda_device.h"
#endif
#include "cuda_launch.h"
#include "ms_deform_attn.h"

namespace gdseg {
namespace {

using namespace gdseg::cuda;

// Contiguous and, whatever view it came from, aligned for the widest loads.
Tensor prepared(const Tensor& tensor) {
  Tensor whole = torch::stable::contiguous(tensor);
  const bool is_aligned = reinterpret_cast<uintptr_t>(whole.const_data_ptr()) % 16 == 0;
  return is_aligned ? whole : torch::stable::clone(whole);
}

// Contiguous, whatever the original is.
Tensor zeros_as(const Tensor& tensor) { return torch::stable::new_zeros(tensor, shape_of(tensor)); }
Tensor empty_as(const Tensor& tensor) { return torch::stable::new_empty(tensor, shape_of(tensor)); }

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// What both entries have in common.
template <class T>
Problem<T> describe(const Sizes& s, const Tensor& value) {
  STD_TORCH_CHECK(std::max({s.N, s.S, s.Q, s.M * s.D, s.points()}) <= INT32_MAX / 16,
                  "ms_deform_attn: on CUDA images, tokens, queries, channels and points must each stay below 2^27");
  STD_TORCH_CHECK(s.L <= kMaxLevels, "ms_deform_attn: on CUDA at most ", kMaxLevels, " levels, got ", s.L);
  Problem<T> p{};
  p.value = data<T>(value);
  p.images = static_cast<int>(s.N), p.tokens = static_cast<int>(s.S), p.queries = static_cast<int>(s.Q);
  p.heads = static_cast<int>(s.M), p.channels = static_cast<int>(s.D);
  p.points = static_cast<int>(s.P), p.samples = static_cast<int>(s.points());
  p.half_share = Real<T>(0.5) / p.points;
  p.queries_are_pixels = s.Q == s.S;  // were they not, the order in which they are served would still be an order
  p.levels = level_table(s.levels.data(), static_cast<int>(s.L));
  return p;
}

template <class T>
Problem<T> describe(const Sizes& s, const Tensor& value, const Tensor& locations, const Tensor& weights) {
  Problem<T> p = describe<T>(s, value);
  p.locations = data<Real<T>>(locations);
  p.weights = data<Real<T>>(weights);
  return p;
}

template <class T>
Problem<T> describe(const Sizes& s, const Tensor& value, const Tensor& references, const Tensor& offsets,
                    const Tensor& logits) {
  Problem<T> p = describe<T>(s, value);
  p.references = data<Real<T>>(references);
  p.offsets = data<T>(offsets);
  p.logits = data<T>(logits);
  p.reference_dims = static_cast<int>(s.reference_dims);
  p.references_shared = s.reference_images == 1;
  return p;
}

template <class Run>
auto with_dtype(ScalarType dtype, Run run) {
  switch (dtype) {
    case ScalarType::Double: return run(double());
    case ScalarType::Half: return run(Half());
    case ScalarType::BFloat16: return run(BFloat16());
    default: return run(float());
  }
}

// All gradients: those named in `to` are written, that of value is returned.
template <bool Fused, class T>
Tensor run_backward(const Device& device, const Problem<T>& problem, const Tensor& grad, const Tensor& value,
                    GradientsOf<T>& to, bool deterministic) {
  to.out = data<T>(grad);
  const ScalarType sums_dtype = deterministic ? ScalarType::Long : coordinate_dtype(value);
  Tensor sums = torch::stable::new_zeros(value, shape_of(value), sums_dtype);
  if (!deterministic) {
    to.value = mutable_data<Real<T>>(sums);
    launch_backward<Fused>(device, problem, to);
    return torch::stable::to(sums, value.scalar_type());
  }
  launch_backward<Fused>(device, problem, to);
  Tensor state = torch::stable::new_zeros(value, {3}, ScalarType::Int);
  Tensor result = empty_as(value);
  launch_fixed_value<Fused>(device, problem, to.out, mutable_data<long long>(sums), mutable_data<int>(state),
                            mutable_data<T>(result));
  return result;
}

// --- the operators; what they take and give is in ms_deform_attn.h ---

Tensor forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations, const Tensor& weights) {
  const Sizes s = check_arguments(value, shapes, locations, weights);
  if (s.nothing_to_sample()) return torch::stable::new_zeros(value, {s.N, s.Q, s.M * s.D});
  const Device device(value);
  const Tensor value_ready = prepared(value), locations_ready = prepared(locations), weights_ready = prepared(weights);
  Tensor out = torch::stable::new_empty(value, {s.N, s.Q, s.M * s.D});
  with_dtype(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto problem = describe<T>(s, value_ready, locations_ready, weights_ready);
    launch_forward<false>(device, problem, mutable_data<T>(out));
  });
  return out;
}

Tensor fused_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& references, const Tensor& offsets,
                     const Tensor& logits) {
  const Sizes s = check_fused_arguments(value, shapes, references, offsets, logits);
  if (s.nothing_to_sample()) return torch::stable::new_zeros(value, {s.N, s.Q, s.M * s.D});
  const Device device(value);
  const Tensor value_ready = prepared(value), references_ready = prepared(references);
  const Tensor offsets_ready = prepared(offsets), logits_ready = prepared(logits);
  Tensor out = torch::stable::new_empty(value, {s.N, s.Q, s.M * s.D});
  with_dtype(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto problem = describe<T>(s, value_ready, references_ready, offsets_ready, logits_ready);
    launch_forward<true>(device, problem, mutable_data<T>(out));
  });
  return out;
}

template <bool Deterministic>
Gradients backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations,
                   const Tensor& weights) {
  const Sizes s = check_arguments(value, shapes, locations, weights);
  check_gradient(grad, value, s);
  if (s.nothing_to_sample()) return {zeros_as(value), zeros_as(locations), zeros_as(weights)};
  const Device device(value);
  const Tensor grad_ready = prepared(grad), value_ready = prepared(value);
  const Tensor locations_ready = prepared(locations), weights_ready = prepared(weights);
  Tensor of_locations = empty_as(locations), of_weights = empty_as(weights);
  return with_dtype(value.scalar_type(), [&](auto zero) -> Gradients {
    using T = decltype(zero);
    GradientsOf<T> to{};
    to.locations = mutable_data<Real<T>>(of_locations);
    to.weights = mutable_data<Real<T>>(of_weights);
    const Problem<T> problem = describe<T>(s, value_ready, locations_ready, weights_ready);
    return {run_backward<false>(device, problem, grad_ready, value_ready, to, Deterministic), of_locations, of_weights};
  });
}

// [N, Q, M, 2 or 4], each head's share -> as references
Tensor sum_of_heads(const Tensor& of_heads, const Sizes& s) {
  const std::vector<int64_t> heads{2}, images_and_heads{0, 2};
  if (s.reference_images == s.N) return torch::stable::sum(of_heads, heads);
  return torch::stable::unsqueeze(torch::stable::sum(of_heads, images_and_heads), 0);
}

template <bool Deterministic>
FusedGradients fused_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                              const Tensor& references, const Tensor& offsets, const Tensor& logits) {
  const Sizes s = check_fused_arguments(value, shapes, references, offsets, logits);
  check_gradient(grad, value, s);
  if (s.nothing_to_sample()) {
    return {zeros_as(value), zeros_as(references), zeros_as(offsets), zeros_as(logits)};
  }
  const Device device(value);
  const Tensor grad_ready = prepared(grad), value_ready = prepared(value), references_ready = prepared(references);
  const Tensor offsets_ready = prepared(offsets), logits_ready = prepared(logits);
  Tensor of_offsets = empty_as(offsets), of_logits = empty_as(logits);
  Tensor of_references = torch::stable::new_empty(references, {s.N, s.Q, s.M, s.reference_dims});
  return with_dtype(value.scalar_type(), [&](auto zero) -> FusedGradients {
    using T = decltype(zero);
    Tensor of_shares = torch::stable::new_empty(references, {s.N, s.Q, s.M, s.points()});
    GradientsOf<T> to{};
    to.weights = mutable_data<Real<T>>(of_shares);
    to.references = mutable_data<Real<T>>(of_references);
    to.offsets = mutable_data<T>(of_offsets);
    to.logits = mutable_data<T>(of_logits);
    const Problem<T> problem = describe<T>(s, value_ready, references_ready, offsets_ready, logits_ready);
    Tensor of_value = run_backward<true>(device, problem, grad_ready, value_ready, to, Deterministic);
    return {of_value, sum_of_heads(of_references, s), of_offsets, of_logits};
  });
}

}  // namespace
}  // namespace gdseg

#ifndef GDSEG_EMULATE_CUDA
// The Stable ABI does not tell whether torch.use_deterministic_algorithms is on: Python chooses the operator.
STABLE_TORCH_LIBRARY_FRAGMENT(gdseg, m) {
  m.def(
      "ms_deform_attn_backward_deterministic(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations,"
      " Tensor weights) -> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused_backward_deterministic(Tensor grad, Tensor value, SymInt[] shapes, Tensor references,"
      " Tensor offsets, Tensor logits) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(gdseg, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&gdseg::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&gdseg::backward<false>));
  m.impl("ms_deform_attn_backward_deterministic", TORCH_BOX(&gdseg::backward<true>));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&gdseg::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&gdseg::fused_backward<false>));
  m.impl("ms_deform_attn_fused_backward_deterministic", TORCH_BOX(&gdseg::fused_backward<true>));
}
#endif
