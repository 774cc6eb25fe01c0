// The operator for x86-64 with AVX2, FMA and F16C: float32, and bfloat16 or float16 in memory with float32 sums.
// From the numbers of a call to the instance that is compiled for them.
//
// What makes it fast, each measured:
// - the coordinates of 8 points at once; levels * points known at compile time for 12, 16 and 20;
// - a dense copy of one head [S + 1, D] when there are many more samples than pixels: neighbours share cache lines,
//   and samples outside read its last row, zeros, so that the inner loop has no branch;
// - with few samples, all heads of a query after one another, in place: they look at the same pages of memory;
// - no other temporary: rows pass through arrays that stay in the first-level cache.
#include "cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "avx2_backward.h"

namespace gdseg {
namespace {

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

bool joins_heads(const Task& task, bool backward) {
  return !copy_pays(task) && (!backward || task.dtype == Dtype::kFloat32);
}

int64_t scratch_bytes(const Task& task, bool backward) {
  const int64_t numbers = (task.S + 1) * task.D, size = task.dtype == Dtype::kFloat32 ? 4 : 2;
  const int64_t copy = copy_pays(task) ? numbers * size : 0;
  return copy + (backward && !joins_heads(task, true) ? numbers * static_cast<int64_t>(sizeof(float)) : 0);
}

}  // namespace

const Implementation kAvx2 = {"AVX2", joins_heads, scratch_bytes, run_forward, run_backward};

bool avx2_was_built() { return true; }

bool avx2_can_do(const Task& task) {
  const bool channels = task.D == 8 || task.D == 16 || task.D == 32 || task.D == 64;
  return channels && task.dtype != Dtype::kFloat64 && task.points() <= kMaxPoints && task.S < kMaxTokens;
}

}  // namespace gdseg

#else

namespace gdseg {

const Implementation kAvx2 = {"AVX2", nullptr, nullptr, nullptr, nullptr};

bool avx2_was_built() { return false; }

bool avx2_can_do(const Task&) { return false; }

}  // namespace gdseg

#endif
