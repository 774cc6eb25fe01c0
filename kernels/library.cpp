// The operators' schemas, registered once for all devices, and what this binary was built with.
// Autograd, the fake implementations and the Autocast rule are in gdseg/models/deform_attn_ops.py.
// A level's size is two integers in `shapes` (h0, w0, h1, w1, ...): SymInt, so that compiled graphs stay dynamic.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gdseg, m) {
  m.def("ms_deform_attn(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused(Tensor value, SymInt[] shapes, Tensor references, Tensor offsets, Tensor logits)"
      " -> Tensor");
  m.def(
      "ms_deform_attn_fused_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor references,"
      " Tensor offsets, Tensor logits) -> (Tensor, Tensor, Tensor, Tensor)");
}

// Read by `gdseg doctor` through ctypes. GDSEG_BUILD comes from kernels/kernels.mk.
extern "C" __attribute__((visibility("default"))) const char* gdseg_build() { return GDSEG_BUILD; }
