// The CUDA implementation on a CPU, as torch.ops.gdseg_emulated: compiled and loaded by test_cuda_emulation.py.
#define GDSEG_EMULATE_CUDA
#include "cuda_emulation.h"
#include "ms_deform_attn.h"

namespace gdseg {

struct Device {
  explicit Device(const Tensor&) {}
  template <class... Arguments>
  void launch(const Arguments&... arguments) const {
    emulation::launch(arguments...);
  }
};

}  // namespace gdseg

#include "ms_deform_attn.cu"

// The schemas of kernels/library.cpp.
STABLE_TORCH_LIBRARY(gdseg_emulated, m) {
  m.def("ms_deform_attn(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights,"
      " bool deterministic) -> (Tensor, Tensor, Tensor)");
  m.def(
      "ms_deform_attn_fused(Tensor value, SymInt[] shapes, Tensor references, Tensor offsets, Tensor logits)"
      " -> Tensor");
  m.def(
      "ms_deform_attn_fused_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor references, Tensor offsets,"
      " Tensor logits, bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(gdseg_emulated, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&gdseg::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&gdseg::backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&gdseg::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&gdseg::fused_backward));
}
