// Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1): what the CPU and the CUDA
// implementation share. Sizes, the checks of every argument, and the functions that each device registers.
//
// Letters: N images, S tokens of all levels, Q queries, M heads, D channels a head, L levels, P points a level.
// A sample at pixel coordinates x = location * width - 0.5 takes part where -1 <= x < width (likewise y), as in
// grid_sample: at exactly -1 its value is zero but the gradient of its location is not. All others, NaN and infinity among them,
// contribute nothing and get zero gradients.
// Only libtorch's Stable ABI is used (torch >= 2.11), so that one binary serves every later torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "level.h"

namespace gdseg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Sizes {
  int64_t N, S, M, D, Q, L, P;
  std::vector<Level> levels;
  int64_t reference_images = 0;  // fused entry: 1 or N
  int64_t reference_dims = 0;    // fused entry: 2 (points: x, y) or 4 (anchors: cx, cy, w, h)

  int64_t points() const { return L * P; }
  bool nothing_to_sample() const { return N * Q * M * D == 0 || S == 0 || points() == 0; }
};

// The dtype of coordinates, weights and sums: float64 beside float64 values, float32 beside all others.
inline ScalarType coordinate_dtype(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < shape.size(); i++) text << (i ? ", " : "") << shape[i];
  text << "]";
  return text.str();
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < tensor.dim(); i++) shape.push_back(tensor.size(i));
  return shape;
}

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& expected) {
  STD_TORCH_CHECK(shape_of(tensor) == expected, "ms_deform_attn: ", name, ": expected shape ",
                  shape_text(expected), ", got ", shape_text(shape_of(tensor)));
}

inline void check_dims(const Tensor& tensor, const char* name, int64_t dims, const char* layout) {
  STD_TORCH_CHECK(tensor.dim() == dims, "ms_deform_attn: ", name, ": expected ", layout, ", got ",
                  shape_text(shape_of(tensor)));
}

inline void check_like(const Tensor& tensor, const char* name, const Tensor& value, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "ms_deform_attn: ", name, ": expected dtype ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()), " (values are ",
                  torch::headeronly::toString(value.scalar_type()), ")");
  STD_TORCH_CHECK(tensor.is_cpu() == value.is_cpu() && tensor.get_device_index() == value.get_device_index(),
                  "ms_deform_attn: ", name, " is on another device than value");
}

inline void check_value(const Tensor& value) {
  check_dims(value, "value", 4, "[N, S, M, D]");
  const ScalarType dtype = value.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                      dtype == ScalarType::Half,
                  "ms_deform_attn: value: expected float32, float64, bfloat16 or float16, got ",
                  torch::headeronly::toString(dtype));
}

// Level table of shapes h0, w0, h1, w1, ...; their areas must add up to `tokens`.
inline std::vector<Level> read_levels(const std::vector<int64_t>& shapes, int64_t tokens) {
  STD_TORCH_CHECK(shapes.size() % 2 == 0, "ms_deform_attn: shapes: expected height, width of each level, got ",
                  shapes.size(), " numbers");
  std::vector<Level> levels;
  int64_t start = 0;
  for (size_t i = 0; i < shapes.size(); i += 2) {
    const int64_t height = shapes[i], width = shapes[i + 1];
    STD_TORCH_CHECK(height >= 0 && width >= 0, "ms_deform_attn: shapes: expected sizes of at least 0, got ", height,
                    " x ", width, " at level ", i / 2);
    STD_TORCH_CHECK(width == 0 || height <= (INT64_MAX - start) / width, "ms_deform_attn: shapes: expected areas that sum",
                    " to value's ", tokens, " tokens, got ", height, " x ", width, " at level ", i / 2);
    levels.push_back({height, width, start});
    start += height * width;
  }
  STD_TORCH_CHECK(start == tokens, "ms_deform_attn: shapes: expected areas that sum to value's ", tokens,
                  " tokens, got ", start);
  return levels;
}

// Arguments of `ms_deform_attn`: value [N, S, M, D], locations [N, Q, M, L, P, 2], weights [N, Q, M, L, P].
inline Sizes check_arguments(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
                             const Tensor& weights) {
  check_value(value);
  check_dims(locations, "locations", 6, "[N, Q, M, L, P, 2]");
  Sizes s{value.size(0),     value.size(1),     value.size(2),     value.size(3),
          locations.size(1), locations.size(3), locations.size(4), read_levels(shapes, value.size(1))};
  check_shape(locations, "locations", {s.N, s.Q, s.M, static_cast<int64_t>(s.levels.size()), s.P, 2});
  check_shape(weights, "weights", {s.N, s.Q, s.M, s.L, s.P});
  check_like(locations, "locations", value, coordinate_dtype(value));
  check_like(weights, "weights", value, coordinate_dtype(value));
  return s;
}

// Arguments of `ms_deform_attn_fused`: value [N, S, M, D], references [N or 1, Q, 2 or 4],
// offsets [N, Q, M, L, P, 2], logits [N, Q, M, L * P]. Offsets and logits have the dtype of value.
inline Sizes check_fused_arguments(const Tensor& value, const std::vector<int64_t>& shapes,
                                   const Tensor& references, const Tensor& offsets, const Tensor& logits) {
  check_value(value);
  check_dims(references, "references", 3, "[N or 1, Q, 2 or 4]");
  check_dims(offsets, "offsets", 6, "[N, Q, M, L, P, 2]");
  Sizes s{value.size(0),   value.size(1),   value.size(2),   value.size(3),
          offsets.size(1), offsets.size(3), offsets.size(4), read_levels(shapes, value.size(1))};
  check_shape(offsets, "offsets", {s.N, s.Q, s.M, static_cast<int64_t>(s.levels.size()), s.P, 2});
  check_shape(logits, "logits", {s.N, s.Q, s.M, s.L * s.P});
  s.reference_images = references.size(0) == 1 ? 1 : s.N;
  s.reference_dims = references.size(2) == 4 ? 4 : 2;
  check_shape(references, "references", {s.reference_images, s.Q, s.reference_dims});
  check_like(references, "references", value, coordinate_dtype(value));
  check_like(offsets, "offsets", value, value.scalar_type());
  check_like(logits, "logits", value, value.scalar_type());
  return s;
}

// The gradient that arrives: [N, Q, M * D] in the dtype of value.
inline void check_gradient(const Tensor& grad, const Tensor& value, const Sizes& s) {
  check_shape(grad, "grad", {s.N, s.Q, s.M * s.D});
  check_like(grad, "grad", value, value.scalar_type());
}

// What a device implements and registers with TORCH_BOX:
//   ms_deform_attn                 -> out [N, Q, M * D], dtype of value
//   ms_deform_attn_backward        -> gradients of value, locations, weights, each in its own dtype
//   ms_deform_attn_fused           -> out [N, Q, M * D], dtype of value
//   ms_deform_attn_fused_backward  -> gradients of value, references, offsets, logits, each in its own dtype
using Gradients = std::tuple<Tensor, Tensor, Tensor>;
using FusedGradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

}  // namespace gdseg
