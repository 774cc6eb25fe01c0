// CPU side of the operators: checks, allocation, how the work is shared among threads, registration.
// The arithmetic is in cpu_avx2.cpp and cpu_portable.cpp. No two threads write the same number and every sum has
// one order, so results are the same to the last bit for any number of threads.
#include "ms_deform_attn.h"

#include <algorithm>
#include <memory>

#include "cpu.h"
#include "pages.h"

namespace gdseg {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kQueriesWorthAThread = 256;

bool processor_has_avx2() {
#if defined(__x86_64__)
  static const bool found =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return found && avx2_was_built();
#else
  return false;
#endif
}

const Implementation& implementation_for(const Task& task) {
  return processor_has_avx2() && avx2_can_do(task) ? kAvx2 : kPortable;
}

// Memory of one thread; nothing is zeroed, and the driver allocates it once a thread and call.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_(new char[bytes + kAlignment]) { prefer_huge_pages(memory_.get(), bytes); }
  void* get() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr int64_t kAlignment = 64;
  std::unique_ptr<char[]> memory_;
};

using Work = void (*)(const Task& task, const Part& part, void* scratch);

// Runs `work` on parts 0..count-1; `part_at` says what each one is.
template <class PartAt>
void run_parts(const Task& task, int64_t count, Work work, int64_t scratch_bytes, const PartAt& part_at) {
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(scratch_bytes);
    for (int64_t i = begin; i < end; i++) work(task, part_at(i), scratch.get());
  });
}

// How the work is cut. Heads come first: what an implementation does for a head, or for some together, it does once.
// With more threads than heads the queries of each are cut as well.
class Cut {
 public:
  Cut(const Task& task, const Implementation& cpu, bool backward) : task_(task) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t threads_an_image = (threads + task.N - 1) / task.N;
    groups_ = cpu.joins_heads(task, backward) ? std::min(threads_an_image, task.M) : task.M;
    const int64_t wanted = (threads + task.N * task.M - 1) / (task.N * task.M);
    pieces_ = std::clamp<int64_t>(task.Q / kQueriesWorthAThread, 1, wanted);
  }
  bool has_pieces() const { return pieces_ > 1; }
  int64_t groups() const { return task_.N * groups_; }
  int64_t count() const { return groups() * pieces_; }

  // All levels, places and value.
  Part group_at(int64_t index) const {
    const int64_t image = index / groups_, group = index % groups_;
    return {image, task_.M * group / groups_, task_.M * (group + 1) / groups_, 0, task_.Q, 0, task_.L, true, true};
  }
  // Groups outermost, so that threads which share a head are neighbours.
  Part at(int64_t index) const {
    Part part = group_at(index / pieces_);
    const int64_t piece = index % pieces_;
    part.first_query = task_.Q * piece / pieces_;
    part.end_query = task_.Q * (piece + 1) / pieces_;
    return part;
  }

 private:
  const Task& task_;
  int64_t groups_, pieces_;
};

void run_forward(const Task& task) {
  const Implementation& cpu = implementation_for(task);
  const Cut cut(task, cpu, false);
  run_parts(task, cut.count(), cpu.forward, cpu.scratch_bytes(task, false), [&](int64_t i) { return cut.at(i); });
}

// A head's gradients in one go. With more threads than heads first those of the places, cut by queries, then
// those of the value, cut by levels: more work in all, the same numbers in the same order.
void run_backward(const Task& task) {
  const Implementation& cpu = implementation_for(task);
  const Cut cut(task, cpu, true);
  const int64_t bytes = cpu.scratch_bytes(task, true);
  run_parts(task, cut.count(), cpu.backward, bytes, [&](int64_t i) {
    Part part = cut.at(i);
    part.want_value = !cut.has_pieces();
    return part;
  });
  if (!cut.has_pieces()) return;
  run_parts(task, cut.groups() * task.L, cpu.backward, bytes, [&](int64_t i) {
    Part part = cut.group_at(i / task.L);
    part.want_places = false;
    part.first_level = i % task.L;
    part.end_level = part.first_level + 1;
    return part;
  });
}

// The sum of the heads' shares [N, M, Q, dims] -> [N or 1, Q, dims], always in the same order.
template <class T>
void add_up_references(const Task& task, const T* shares, T* grad) {
  const int64_t row = task.Q * task.reference_dims, images = task.N / task.reference_images;
  for (int64_t r = 0; r < task.reference_images; r++) {
    std::fill(grad + r * row, grad + (r + 1) * row, T(0));
    for (int64_t share = r * images * task.M; share < (r + 1) * images * task.M; share++)
      for (int64_t i = 0; i < row; i++) grad[r * row + i] += shares[share * row + i];
  }
}

Dtype dtype_of(const Tensor& value) {
  switch (value.scalar_type()) {
    case ScalarType::Double: return Dtype::kFloat64;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    default: return Dtype::kFloat32;
  }
}

Task task_of(const Sizes& s, const Tensor& value, const Tensor& places, const Tensor& weights) {
  Task task{};
  task.N = s.N, task.S = s.S, task.M = s.M, task.D = s.D, task.Q = s.Q, task.L = s.L, task.P = s.P;
  task.levels = s.levels.data();
  task.dtype = dtype_of(value);
  task.value = value.const_data_ptr();
  task.places = places.const_data_ptr();
  task.weights = weights.const_data_ptr();
  return task;
}

Task fused_task_of(const Sizes& s, const Tensor& value, const Tensor& references, const Tensor& offsets,
                   const Tensor& logits) {
  Task task = task_of(s, value, offsets, logits);
  task.fused = true;
  task.references = references.const_data_ptr();
  task.reference_images = s.reference_images;
  task.reference_dims = s.reference_dims;
  return task;
}

// Memory that is written from end to end.
Tensor fresh(const Tensor& like, const std::vector<int64_t>& shape) {
  Tensor tensor = torch::stable::new_empty(like, shape);
  prefer_huge_pages(tensor.mutable_data_ptr(), tensor.numel() * tensor.element_size());
  return tensor;
}
Tensor fresh_like(const Tensor& like) { return fresh(like, shape_of(like)); }

Tensor forward_of(Task& task, const Sizes& s, const Tensor& value) {
  if (s.nothing_to_sample()) return torch::stable::new_zeros(value, {s.N, s.Q, s.M * s.D});
  Tensor out = fresh(value, {s.N, s.Q, s.M * s.D});
  task.out = out.mutable_data_ptr();
  run_forward(task);
  return out;
}

Tensor zeros_like(const Tensor& like) { return torch::stable::new_zeros(like, shape_of(like)); }

Tensor ms_deform_attn(const Tensor& value_, const std::vector<int64_t>& shapes, const Tensor& locations_,
                      const Tensor& weights_) {
  const Sizes s = check_arguments(value_, shapes, locations_, weights_);
  const Tensor value = torch::stable::contiguous(value_), locations = torch::stable::contiguous(locations_),
               weights = torch::stable::contiguous(weights_);
  Task task = task_of(s, value, locations, weights);
  return forward_of(task, s, value);
}

Tensor ms_deform_attn_fused(const Tensor& value_, const std::vector<int64_t>& shapes, const Tensor& references_,
                            const Tensor& offsets_, const Tensor& logits_) {
  const Sizes s = check_fused_arguments(value_, shapes, references_, offsets_, logits_);
  const Tensor value = torch::stable::contiguous(value_), references = torch::stable::contiguous(references_),
               offsets = torch::stable::contiguous(offsets_), logits = torch::stable::contiguous(logits_);
  Task task = fused_task_of(s, value, references, offsets, logits);
  return forward_of(task, s, value);
}

Gradients ms_deform_attn_backward(const Tensor& grad_, const Tensor& value_, const std::vector<int64_t>& shapes,
                                  const Tensor& locations_, const Tensor& weights_) {
  const Sizes s = check_arguments(value_, shapes, locations_, weights_);
  check_gradient(grad_, value_, s);
  const Tensor grad = torch::stable::contiguous(grad_), value = torch::stable::contiguous(value_),
               locations = torch::stable::contiguous(locations_), weights = torch::stable::contiguous(weights_);
  if (s.nothing_to_sample()) return {zeros_like(value), zeros_like(locations), zeros_like(weights)};
  Task task = task_of(s, value, locations, weights);
  Tensor grad_value = fresh_like(value), grad_locations = fresh_like(locations),
         grad_weights = fresh_like(weights);
  task.grad = grad.const_data_ptr();
  task.grad_value = grad_value.mutable_data_ptr();
  task.grad_places = grad_locations.mutable_data_ptr();
  task.grad_weights = grad_weights.mutable_data_ptr();
  run_backward(task);
  return {grad_value, grad_locations, grad_weights};
}

FusedGradients ms_deform_attn_fused_backward(const Tensor& grad_, const Tensor& value_,
                                             const std::vector<int64_t>& shapes, const Tensor& references_,
                                             const Tensor& offsets_, const Tensor& logits_) {
  const Sizes s = check_fused_arguments(value_, shapes, references_, offsets_, logits_);
  check_gradient(grad_, value_, s);
  const Tensor grad = torch::stable::contiguous(grad_), value = torch::stable::contiguous(value_),
               references = torch::stable::contiguous(references_),
               offsets = torch::stable::contiguous(offsets_), logits = torch::stable::contiguous(logits_);
  if (s.nothing_to_sample())
    return {zeros_like(value), zeros_like(references), zeros_like(offsets), zeros_like(logits)};
  Task task = fused_task_of(s, value, references, offsets, logits);
  Tensor grad_value = fresh_like(value), grad_references = fresh_like(references),
         grad_offsets = fresh_like(offsets), grad_logits = fresh_like(logits);
  const Tensor shares = torch::stable::new_empty(references, {s.N, s.M, s.Q, s.reference_dims});
  task.grad = grad.const_data_ptr();
  task.grad_value = grad_value.mutable_data_ptr();
  task.grad_places = grad_offsets.mutable_data_ptr();
  task.grad_weights = grad_logits.mutable_data_ptr();
  task.grad_references = shares.mutable_data_ptr();
  run_backward(task);
  if (task.dtype == Dtype::kFloat64)
    add_up_references(task, shares.const_data_ptr<double>(), grad_references.mutable_data_ptr<double>());
  else
    add_up_references(task, shares.const_data_ptr<float>(), grad_references.mutable_data_ptr<float>());
  return {grad_value, grad_references, grad_offsets, grad_logits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gdseg, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&ms_deform_attn_fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&ms_deform_attn_fused_backward));
}

// Which arithmetic this processor gets; read by `gdseg doctor` through ctypes.
extern "C" __attribute__((visibility("default"))) const char* gdseg_cpu_path() {
  return processor_has_avx2() ? kAvx2.name : kPortable.name;
}

}  // namespace gdseg
