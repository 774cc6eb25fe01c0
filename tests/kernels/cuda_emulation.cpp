// The CUDA kernels on a CPU, as functions for ctypes: test_cuda_emulation.py compiles and calls this.
#define GDSEG_EMULATE_CUDA
#include "cuda_launch.h"

namespace {

using namespace gdseg::cuda;

struct Cpu {
  template <class... A>
  void launch(A&&... arguments) const {
    emulation::launch(arguments...);
  }
};

}  // namespace

// One call; pointers as in Problem and GradientsOf, null where not used. Read through ctypes, field by field.
struct Call {
  int64_t images, tokens, queries, heads, channels, levels, points, reference_dims, references_shared;
  int64_t deterministic;
  const int64_t* shapes;
  const void *value, *locations, *weights, *references, *offsets, *logits;
  void* out;                // forward
  const void* grad;         // backward, if not null
  void *sums, *state, *of_value;  // `of_value` only where deterministic
  void *of_locations, *of_weights, *of_references, *of_offsets, *of_logits;
};

namespace {

template <bool Fused, class T>
void run(const Call& c) {
  Problem<T> p{};
  p.value = static_cast<const T*>(c.value);
  p.locations = static_cast<const Real<T>*>(c.locations), p.weights = static_cast<const Real<T>*>(c.weights);
  p.references = static_cast<const Real<T>*>(c.references);
  p.offsets = static_cast<const T*>(c.offsets), p.logits = static_cast<const T*>(c.logits);
  p.images = c.images, p.tokens = c.tokens, p.queries = c.queries, p.heads = c.heads, p.channels = c.channels;
  p.points = c.points, p.samples = c.levels * c.points;
  p.reference_dims = c.reference_dims, p.references_shared = c.references_shared;
  p.queries_are_pixels = c.queries == c.tokens;
  std::vector<gdseg::Level> levels;
  for (int64_t l = 0, start = 0; l < c.levels; l++) {
    levels.push_back({c.shapes[2 * l], c.shapes[2 * l + 1], start});
    start += c.shapes[2 * l] * c.shapes[2 * l + 1];
  }
  p.levels = level_table(levels.data(), c.levels);
  if (!c.grad) return launch_forward<Fused>(Cpu(), p, static_cast<T*>(c.out));
  GradientsOf<T> to{};
  to.out = static_cast<const T*>(c.grad);
  to.value = c.deterministic ? nullptr : static_cast<Real<T>*>(c.sums);
  to.locations = static_cast<Real<T>*>(c.of_locations), to.weights = static_cast<Real<T>*>(c.of_weights);
  to.references = static_cast<Real<T>*>(c.of_references);
  to.offsets = static_cast<T*>(c.of_offsets), to.logits = static_cast<T*>(c.of_logits);
  launch_backward<Fused>(Cpu(), p, to);
  if (!c.deterministic) return;
  launch_fixed_value<Fused>(Cpu(), p, to.out, static_cast<long long*>(c.sums), static_cast<int*>(c.state),
                            static_cast<T*>(c.of_value));
}

template <class T>
void run(const Call& c) {
  c.references ? run<true, T>(c) : run<false, T>(c);
}

}  // namespace

extern "C" void run_float32(const Call* c) { run<float>(*c); }
extern "C" void run_float64(const Call* c) { run<double>(*c); }
extern "C" void run_float16(const Call* c) { run<Half>(*c); }
extern "C" void run_bfloat16(const Call* c) { run<BFloat16>(*c); }
