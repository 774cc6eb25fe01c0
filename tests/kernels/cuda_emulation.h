// Enough of CUDA for the kernels in kernels/cuda_*.h to run on a CPU, compiled by any C++17 compiler: for tests only.
//
// A launch runs one warp after the other. Its 32 lanes are fibers: a lane that comes to a shuffle or a __syncwarp()
// stops there until all 32 have come, as the whole-warp mask demands. If some lanes come to another kind of meeting,
// or return while others wait, the kernel is wrong and the program aborts. Lanes run in an order that changes at
// each meeting, so that a missing __syncwarp() shows.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct double2 { double x, y; };
struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct Index { unsigned x = 0; };
inline Index threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float __uint_as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline uint32_t __float_as_uint(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

namespace emulation {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what);
  std::abort();
}

enum class Meeting { kNone, kSync, kShuffle, kReturned };

struct Lane {
  ucontext_t start;
  jmp_buf resume;
  std::vector<char> stack = std::vector<char>(64 * 1024);
  Meeting meeting = Meeting::kNone;
  double given = 0;
};

inline std::vector<Lane> lanes(32);
inline jmp_buf scheduler;  // a context starts a lane; jumps, which take no system call, do the rest
inline int current = 0;
inline std::function<void()> body;

inline void meet(Meeting meeting) {
  Lane& lane = lanes[current];
  lane.meeting = meeting;
  if (_setjmp(lane.resume) == 0) _longjmp(scheduler, 1);
}

inline void run_lane() {
  body();
  meet(Meeting::kReturned);
}

inline void start_lane(Lane& lane) {
  getcontext(&lane.start);
  lane.start.uc_stack.ss_sp = lane.stack.data();
  lane.start.uc_stack.ss_size = lane.stack.size();
  lane.start.uc_link = nullptr;
  makecontext(&lane.start, run_lane, 0);
  setcontext(&lane.start);
}

// Until the lane's next meeting.
inline void run_until_meeting(Lane& lane) {
  if (_setjmp(scheduler)) return;
  lane.meeting == Meeting::kNone ? start_lane(lane) : _longjmp(lane.resume, 1);
}

inline void run_warp(unsigned first_thread) {
  for (Lane& lane : lanes) lane.meeting = Meeting::kNone;
  for (int turn = 0; lanes[0].meeting != Meeting::kReturned; turn++) {
    for (int i = 0; i < 32; i++) {
      current = (i * 13 + turn * 7) % 32;
      threadIdx.x = first_thread + current;
      run_until_meeting(lanes[current]);
    }
    for (const Lane& lane : lanes) {
      if (lane.meeting != lanes[0].meeting) fail("the lanes of a warp wait for different things");
    }
  }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) {
  if (threads % 32 || blocks > INT32_MAX) fail("impossible launch");
  body = [&] { kernel(arguments...); };
  gridDim.x = static_cast<unsigned>(blocks), blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
    for (int first = 0; first < threads; first += 32) run_warp(first);
  }
}

inline void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("unaligned load or sum");
}

}  // namespace emulation

template <class T>
T __ldg(const T* from) {
  emulation::check_aligned(from, sizeof(T));
  return *from;
}

inline void __syncwarp() { emulation::meet(emulation::Meeting::kSync); }

// In two meetings: after the first all have given, after the second all have taken.
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int step) {
  if (mask != 0xffffffffu) emulation::fail("a shuffle of a part of the warp");
  const int lane = emulation::current;
  emulation::lanes[lane].given = static_cast<double>(x);
  emulation::meet(emulation::Meeting::kShuffle);
  const T taken = static_cast<T>(emulation::lanes[lane ^ step].given);
  emulation::meet(emulation::Meeting::kShuffle);
  return taken;
}

template <class T>
T atomicAdd(T* to, T x) {
  const T before = *to;
  *to += x;
  return before;
}

template <class T>
T atomicMax(T* to, T x) {
  const T before = *to;
  *to = std::max(before, x);
  return before;
}
