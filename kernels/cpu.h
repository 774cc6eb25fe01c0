// Between the driver (ms_deform_attn.cpp) and its two CPU implementations (cpu_portable.cpp, cpu_avx2.cpp).
// Plain structures and internal linkage only: cpu_avx2.cpp is compiled for newer processors than the rest, so
// nothing that it shares may be a function that the linker could pick for everyone.
#pragma once

#include <cstdint>

#include "level.h"

namespace gdseg {

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// One call of the operator; all tensors contiguous. "Coordinate type": double beside double values, else float.
struct Task {
  int64_t N, S, M, D, Q, L, P;
  const Level* levels;
  Dtype dtype;
  bool fused;
  const void* value;       // [N, S, M, D]
  const void* places;      // [N, Q, M, L, P, 2]: locations (coordinate type) or, fused, offsets (dtype of value)
  const void* weights;     // [N, Q, M, L * P]: weights (coordinate type) or, fused, logits (dtype of value)
  const void* references;  // fused: [reference_images, Q, reference_dims], coordinate type
  int64_t reference_images, reference_dims;

  void* out;  // forward: [N, Q, M * D]

  const void* grad;       // backward: [N, Q, M * D]
  void* grad_value;       // as value
  void* grad_places;      // as places
  void* grad_weights;     // as weights
  void* grad_references;  // fused: each head's share [N, M, Q, reference_dims], coordinate type

  int64_t points() const { return L * P; }
};

// A share of the work that one thread does alone: some queries of some heads of one image. Backward: gradients of
// places, weights and references if `want_places`, of value for the levels first_level..end_level if `want_value`.
struct Part {
  int64_t image;
  int64_t first_head, end_head;  // one head, unless the implementation joins them
  int64_t first_query, end_query;
  int64_t first_level, end_level;
  bool want_places, want_value;
};

// `scratch` is 64-byte aligned memory of the thread's own, as large as the implementation says.
struct Implementation {
  const char* name;
  bool (*joins_heads)(const Task& task, bool backward);  // whether it rather takes several heads at a time
  int64_t (*scratch_bytes)(const Task& task, bool backward);
  void (*forward)(const Task& task, const Part& part, void* scratch);
  void (*backward)(const Task& task, const Part& part, void* scratch);
};

extern const Implementation kPortable;
extern const Implementation kAvx2;

bool avx2_was_built();
bool avx2_can_do(const Task& task);  // whatever the processor

// Row of a query and head in a tensor [N, Q, M, ...].
static inline int64_t row_of(const Task& task, const Part& part, int64_t query, int64_t head) {
  return (part.image * task.Q + query) * task.M + head;
}

// Row of query q in the references [1 or N, Q, ...].
static inline int64_t reference_row(const Task& task, const Part& part, int64_t query) {
  return (task.reference_images == 1 ? 0 : part.image) * task.Q + query;
}

}  // namespace gdseg
