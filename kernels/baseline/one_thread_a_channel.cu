// How deformable attention runs on a GPU in the official projects, for `gdseg bench op --device cuda` alone: one thread
// a channel, float32, every thread working out the same locations, four scalar loads a sample; backward with one block
// a query and head, scalar atomics, and sums over channels in shared memory that one thread adds up. Written after the
// description in Deformable DETR (arXiv 2010.04159) and the behaviour of its CUDA operator (Apache-2.0), not copied.
// `make gpu` builds it into build/kernels; called through ctypes by gdseg/bench/one_thread_a_channel.py.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kForwardThreads = 1024;
constexpr int kMaxChannels = 256;

// Tensors as of ms_deform_attn, contiguous: value [N, S, M, D], locations [N, Q, M, L, P, 2], weights [N, Q, M, L, P].
// Indices are 32 bits, as there.
struct Problem {
  const float *value, *locations, *weights;
  const int64_t *shapes, *starts;  // on the GPU: height and width, first token, of each level
  int images, tokens, heads, channels, queries, levels, points;
};

struct Sample {
  float x, y;     // fractions
  int corner[4];  // index into value; -1: outside
};

__device__ Sample sample_at(const Problem& p, int sample, int image, int head, int channel, int level) {
  const int height = p.shapes[2 * level], width = p.shapes[2 * level + 1];
  const float x = p.locations[2 * sample] * width - 0.5f, y = p.locations[2 * sample + 1] * height - 0.5f;
  Sample s{0, 0, {-1, -1, -1, -1}};
  if (!(x > -1 && y > -1 && x < width && y < height)) return s;
  const int left = floorf(x), top = floorf(y);
  s.x = x - left, s.y = y - top;
  for (int c = 0; c < 4; c++) {
    const int column = left + (c & 1), row = top + (c >> 1);
    if (column < 0 || row < 0 || column >= width || row >= height) continue;
    const int token = image * p.tokens + static_cast<int>(p.starts[level]) + row * width + column;
    s.corner[c] = (token * p.heads + head) * p.channels + channel;
  }
  return s;
}

__device__ float share(const Sample& s, int corner) {
  return (corner & 1 ? s.x : 1 - s.x) * (corner >> 1 ? s.y : 1 - s.y);
}

__global__ void forward_kernel(Problem p, float* out) {
  const int count = p.images * p.queries * p.heads * p.channels;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int channel = i % p.channels, head = i / p.channels % p.heads;
  const int row = i / p.channels, image = row / p.heads / p.queries;
  float sum = 0;
  for (int level = 0; level < p.levels; level++) {
    for (int point = 0; point < p.points; point++) {
      const int sample = (row * p.levels + level) * p.points + point;
      const Sample s = sample_at(p, sample, image, head, channel, level);
      float value = 0;
      for (int c = 0; c < 4; c++)
        if (s.corner[c] >= 0) value += share(s, c) * p.value[s.corner[c]];
      sum += p.weights[sample] * value;
    }
  }
  out[i] = sum;
}

// One block a row, one thread a channel.
__global__ void backward_kernel(Problem p, const float* grad, float* of_value, float* of_locations, float* of_weights) {
  __shared__ float parts[3][kMaxChannels];
  const int row = blockIdx.x, image = row / p.heads / p.queries;
  const int head = row % p.heads, channel = threadIdx.x;
  const float arriving = grad[row * p.channels + channel];
  for (int level = 0; level < p.levels; level++) {
    for (int point = 0; point < p.points; point++) {
      const int sample = (row * p.levels + level) * p.points + point;
      const Sample s = sample_at(p, sample, image, head, channel, level);
      const float weight = p.weights[sample];
      float corner[4] = {0, 0, 0, 0}, value = 0;
      for (int c = 0; c < 4; c++) {
        if (s.corner[c] < 0) continue;
        corner[c] = p.value[s.corner[c]];
        value += share(s, c) * corner[c];
        atomicAdd(of_value + s.corner[c], share(s, c) * weight * arriving);
      }
      const float slope_x = (1 - s.y) * (corner[1] - corner[0]) + s.y * (corner[3] - corner[2]);
      const float slope_y = (1 - s.x) * (corner[2] - corner[0]) + s.x * (corner[3] - corner[1]);
      parts[0][channel] = arriving * value;
      parts[1][channel] = arriving * weight * slope_x * p.shapes[2 * level + 1];
      parts[2][channel] = arriving * weight * slope_y * p.shapes[2 * level];
      __syncthreads();
      if (channel == 0) {
        float sums[3] = {0, 0, 0};
        for (int i = 0; i < p.channels; i++)
          for (int k = 0; k < 3; k++) sums[k] += parts[k][i];
        of_weights[sample] = sums[0];
        of_locations[2 * sample] = sums[1], of_locations[2 * sample + 1] = sums[2];
      }
      __syncthreads();
    }
  }
}

}  // namespace

// Both give the CUDA error, 0 if there was none. `sizes`: N, S, M, D, Q, L, P. Pointers to GPU memory.
extern "C" int one_thread_forward(const float* value, const int64_t* shapes, const int64_t* starts,
                                  const float* locations, const float* weights, const int* sizes, float* out,
                                  cudaStream_t stream) {
  const Problem p{value,    locations, weights,  shapes,   starts,   sizes[0], sizes[1],
                  sizes[2], sizes[3],  sizes[4], sizes[5], sizes[6]};
  const int count = p.images * p.queries * p.heads * p.channels;
  forward_kernel<<<(count + kForwardThreads - 1) / kForwardThreads, kForwardThreads, 0, stream>>>(p, out);
  return cudaGetLastError();
}

// `of_value` is zeros at the start.
extern "C" int one_thread_backward(const float* grad, const float* value, const int64_t* shapes, const int64_t* starts,
                                   const float* locations, const float* weights, const int* sizes, float* of_value,
                                   float* of_locations, float* of_weights, cudaStream_t stream) {
  const Problem p{value,    locations, weights,  shapes,   starts,   sizes[0], sizes[1],
                  sizes[2], sizes[3],  sizes[4], sizes[5], sizes[6]};
  if (p.channels > kMaxChannels) return cudaErrorInvalidValue;
  backward_kernel<<<p.images * p.queries * p.heads, p.channels, 0, stream>>>(p, grad, of_value, of_locations,
                                                                            of_weights);
  return cudaGetLastError();
}
