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

// The schemas of kernels/library.cpp and ms_deform_attn.cu.
STABLE_TORCH_LIBRARY(gdseg_emulated, m) {
  m.def("ms_deform_attn(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "ms_deform_attn_fused(Tensor value, SymInt[] shapes, Tensor references, Tensor offsets, Tensor logits)"
      " -> Tensor");
  for (const std::string suffix : {"", "_deterministic"}) {
    m.def(("ms_deform_attn_backward" + suffix +
           "(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
           " -> (Tensor, Tensor, Tensor)")
              .c_str());
    m.def(("ms_deform_attn_fused_backward" + suffix +
           "(Tensor grad, Tensor value, SymInt[] shapes, Tensor references, Tensor offsets, Tensor logits)"
           " -> (Tensor, Tensor, Tensor, Tensor)")
              .c_str());
  }
}

STABLE_TORCH_LIBRARY_IMPL(gdseg_emulated, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&gdseg::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&gdseg::backward<false>));
  m.impl("ms_deform_attn_backward_deterministic", TORCH_BOX(&gdseg::backward<true>));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&gdseg::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&gdseg::fused_backward<false>));
  m.impl("ms_deform_attn_fused_backward_deterministic", TORCH_BOX(&gdseg::fused_backward<true>));
}
