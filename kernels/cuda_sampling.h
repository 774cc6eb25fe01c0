// Where the CUDA kernels sample and with what weight; used by cuda_forward.h and cuda_backward.h.
//
// G neighbouring lanes, a group, serve one (image, query, head): a warp serves 32 / G of them. The group's samples
// (levels x points) are taken G at a time: each lane works out one sample (softmax, location, four pixels, four
// weights), puts it into shared memory, and then all lanes of the group follow the G samples, each for its own
// channels. A block holds neighbouring queries of one head, so that their samples meet in the L1 cache.
#pragma once

#include "cuda_lanes.h"

namespace gdseg::cuda {

constexpr int kMaxLevels = 64;
constexpr int kMaxThreads = 256;  // a block
constexpr int kStripRows = 8;     // queries that are pixels are walked in strips of so many rows

// Passed by value as a __grid_constant__: it stays in the constant bank, where a lookup costs one instruction.
struct Levels {
  int count;
  int height[kMaxLevels], width[kMaxLevels];  // both -1 for a level without pixels: then nothing is inside it
  int start[kMaxLevels];
};

// One call; tensors contiguous, all of them aligned to 16 bytes.
template <class T>
struct Problem {
  const T* value;             // [N, S, M, D]
  const Real<T>* locations;   // [N, Q, M, L, P, 2]
  const Real<T>* weights;     // [N, Q, M, L * P]
  const Real<T>* references;  // the fused entry, instead of the two: [N or 1, Q, 2 or 4]
  const T* offsets;           //   [N, Q, M, L, P, 2]
  const T* logits;            //   [N, Q, M, L * P]
  int images, tokens, queries, heads, channels;  // N, S, Q, M, D
  int points, samples;                           // P, L * P
  Real<T> half_share;                            // 0.5 / P
  int reference_dims;                            // 2: points, 4: anchors
  bool references_shared;                        // by all images
  bool queries_are_pixels;                       // query q is token q: the encoder
  Levels levels;
};

// The i-th query to serve. Pixels go column by column inside strips of a few rows, so that a block's queries make a
// patch instead of a long line; other queries go in their own order.
template <class T>
__device__ __forceinline__ int query_at(const Problem<T>& p, int i) {
  if (!p.queries_are_pixels) return i;
  int level = 0;
  while (level + 1 < p.levels.count && i >= p.levels.start[level + 1]) level++;
  const int start = p.levels.start[level], width = p.levels.width[level];
  const int strip = (i - start) / (kStripRows * width);
  const int rows = min(kStripRows, p.levels.height[level] - strip * kStripRows);
  const int step = i - start - strip * kStripRows * width;
  return start + (strip * kStripRows + step % rows) * width + step / rows;
}

// What a group serves.
struct Place {
  int image, head, query;
  int64_t row;   // of [N, Q, M]
  bool is_real;  // false: a group past the last query, which keeps its warp company and writes nothing
};

// Blocks: heads fastest, then patches of queries, then images.
template <int G, class T>
__device__ __forceinline__ Place place_of_group(const Problem<T>& p) {
  const int groups = blockDim.x / G;
  const int patches = (p.queries - 1) / groups + 1;
  Place place;
  place.head = blockIdx.x % p.heads;
  const int patch = blockIdx.x / p.heads % patches;
  place.image = blockIdx.x / p.heads / patches;
  const int64_t i = static_cast<int64_t>(patch) * groups + threadIdx.x / G;
  place.is_real = i < p.queries;
  place.query = query_at(p, place.is_real ? static_cast<int>(i) : p.queries - 1);
  place.row = (static_cast<int64_t>(place.image) * p.queries + place.query) * p.heads + place.head;
  return place;
}

template <class T>
__device__ __forceinline__ int64_t reference_row(const Problem<T>& p, const Place& place) {
  return p.references_shared ? place.query : static_cast<int64_t>(place.image) * p.queries + place.query;
}

// Softmax over a group's logits, in two passes: the second reads from the L1 cache.
template <class R>
struct Softmax {
  R largest, scale;
  __device__ __forceinline__ R operator()(R logit) const { return exp(logit - largest) * scale; }
};

template <int G, class T>
__device__ __forceinline__ Softmax<Real<T>> softmax_of_group(const Problem<T>& p, const Place& place, int lane) {
  const T* logits = p.logits + place.row * p.samples;
  Real<T> largest = -INFINITY, sum = 0;
  for (int k = lane; k < p.samples; k += G) largest = fmax(largest, as_real(logits[k]));
  largest = group_max<G>(largest);
  for (int k = lane; k < p.samples; k += G) sum += exp(as_real(logits[k]) - largest);
  return {largest, 1 / group_sum<G>(sum)};
}

// One sample of one group. Its corners: left top, right top, left bottom, right bottom.
template <class R>
struct Sample {
  bool is_inside;              // false: it touches no pixel, or its location is not finite; it contributes nothing
  R share;                     // attention weight
  R width, height;             // of its level
  R x, y;                      // fractional part of its position
  R left, right, top, bottom;  // bilinear weights; 0 for pixels outside the level
  bool has_left, has_right, has_top, has_bottom;  // pixels inside the level
  int token[4];                                   // corners; one outside the level repeats a neighbour
  R offset_x, offset_y;                           // fused entry: as given
};

// Anchor or point of the fused entry.
template <class R>
struct Reference {
  R x, y, width, height;  // 0..1; the last two only for anchors
};

template <class T>
__device__ __forceinline__ Reference<Real<T>> load_reference(const Problem<T>& p, const Place& place) {
  const Real<T>* at = p.references + reference_row(p, place) * p.reference_dims;
  const Real2<T> centre = load_pair(at);
  if (p.reference_dims == 2) return {centre.x, centre.y, 0, 0};
  const Real2<T> size = load_pair(at + 2);
  return {centre.x, centre.y, size.x, size.y};
}

// Pixels that one unit of offset moves the sample by: 1 beside points, half a box over the points beside anchors.
template <class T>
__device__ __forceinline__ Real2<T> pixels_per_offset(const Problem<T>& p, const Reference<Real<T>>& reference,
                                                      const Sample<Real<T>>& sample) {
  if (p.reference_dims == 2) return {1, 1};
  return {reference.width * p.half_share * sample.width, reference.height * p.half_share * sample.height};
}

// In grid_sample's order of rounding: on the border of two pixels both take the same side.
template <class R>
__device__ __forceinline__ R pixel_of(R location, R length) {
  return fma((location * 2 - 1) + 1, length * R(0.5), R(-0.5));
}

// Sample k of a place: all but its share.
template <bool Fused, class T>
__device__ __forceinline__ Sample<Real<T>> find_sample(const Problem<T>& p, const Place& place,
                                                       const Reference<Real<T>>& reference, int k) {
  using R = Real<T>;
  Sample<R> s{};
  const int level = static_cast<unsigned>(k) / static_cast<unsigned>(p.points);
  const int width = p.levels.width[level], height = p.levels.height[level];
  s.width = width, s.height = height;
  R x, y;
  if constexpr (Fused) {
    const Real2<T> offset = load_pair(p.offsets + (place.row * p.samples + k) * 2);
    const Real2<T> pixels = pixels_per_offset(p, reference, s);
    s.offset_x = offset.x, s.offset_y = offset.y;
    x = reference.x * s.width + (offset.x * pixels.x - R(0.5));
    y = reference.y * s.height + (offset.y * pixels.y - R(0.5));
  } else {
    const Real2<T> location = load_pair(p.locations + (place.row * p.samples + k) * 2);
    x = pixel_of(location.x, s.width);
    y = pixel_of(location.y, s.height);
  }
  s.is_inside = x >= -1 && y >= -1 && x < s.width && y < s.height;  // false for NaN
  if (!s.is_inside) return s;
  const R x_floor = floor(x), y_floor = floor(y);
  const int column = static_cast<int>(x_floor), row = static_cast<int>(y_floor);
  s.x = x - x_floor, s.y = y - y_floor;
  s.has_left = column >= 0, s.has_right = column + 1 < width;
  s.has_top = row >= 0, s.has_bottom = row + 1 < height;
  s.left = s.has_left ? 1 - s.x : 0, s.right = s.has_right ? s.x : 0;
  s.top = s.has_top ? 1 - s.y : 0, s.bottom = s.has_bottom ? s.y : 0;
  const int top = p.levels.start[level] + max(row, 0) * width, left = max(column, 0);
  const int bottom = p.levels.start[level] + min(row + 1, height - 1) * width, right = min(column + 1, width - 1);
  s.token[0] = top + left, s.token[1] = top + right, s.token[2] = bottom + left, s.token[3] = bottom + right;
  return s;
}

// One channel of one head at every token. The distance in bytes makes an address a single multiply-add.
template <class Value>
struct Pixels {
  Value* first;
  unsigned stride_bytes;

  __device__ __forceinline__ Value* at(int token) const {
    const uint64_t distance = static_cast<uint64_t>(static_cast<unsigned>(token)) * stride_bytes;
    return (Value*)((char*)first + distance);  // by way of a pointer: the compiler still knows it as global memory
  }
};

// A group at work, as one of its lanes sees it.
template <bool Fused, int G, class T>
struct Group {
  using R = Real<T>;
  const Problem<T>& p;
  const int lane;
  const Place place;
  Reference<R> reference{};
  Softmax<R> softmax{};

  __device__ __forceinline__ explicit Group(const Problem<T>& problem)
      : p(problem), lane(threadIdx.x % G), place(place_of_group<G>(problem)) {
    if constexpr (Fused) {
      reference = load_reference(p, place);
      softmax = softmax_of_group<G>(p, place, lane);
    }
  }
  // Channel `channel` of this image and head at the first token, in a tensor like value.
  template <class Value>
  __device__ __forceinline__ Pixels<Value> pixels(Value* tensor, int channel) const {
    const int64_t first = static_cast<int64_t>(place.image) * p.tokens * p.heads + place.head;
    return {tensor + first * p.channels + channel, static_cast<unsigned>(p.heads * p.channels * sizeof(Value))};
  }
  __device__ __forceinline__ int64_t row_of_sample(int k) const { return place.row * p.samples + k; }
  __device__ __forceinline__ R share(int k) const {
    if constexpr (Fused) {
      return softmax(as_real(p.logits[row_of_sample(k)]));
    } else {
      return p.weights[row_of_sample(k)];
    }
  }
  __device__ __forceinline__ Sample<R> sample(int k) const {
    Sample<R> s{};
    if (!place.is_real || k >= p.samples) return s;
    s = find_sample<Fused>(p, place, reference, k);
    if (s.is_inside) s.share = share(k);
    return s;
  }
};

// What the lanes of a group tell one another, and how. The samples of a warp's groups alternate, so that lanes which
// follow their groups' j-th samples read neighbouring addresses.
template <int G, class T>
struct Exchange {
  int4* tokens;       // tokens.x is -1 for a sample which contributes nothing
  Real4<T>* weights;  // share included

  __device__ __forceinline__ static int slot(int j) {
    return threadIdx.x / 32 * 32 + j * (32 / G) + threadIdx.x % 32 / G;
  }
  __device__ __forceinline__ void put(const Sample<Real<T>>& s, int lane) const {
    const int at = slot(lane);
    if (!s.is_inside) {
      tokens[at] = make_int4(-1, -1, -1, -1);
      return;
    }
    const Real<T> top = s.top * s.share, bottom = s.bottom * s.share;
    tokens[at] = make_int4(s.token[0], s.token[1], s.token[2], s.token[3]);
    weights[at] = {top * s.left, top * s.right, bottom * s.left, bottom * s.right};
  }
};

}  // namespace gdseg::cuda
