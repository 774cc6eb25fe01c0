// The GPU and the stream that a call works on. Stable ABI only; the CUDA runtime is linked statically.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "ms_deform_attn.h"

namespace gdseg {

// libtorch_cuda is looked for when the first tensor on a GPU arrives: a binary which names it as needed would not load
// beside a torch for CPUs. Python loads it without making its symbols global, hence the second way.
inline cudaStream_t current_stream(int32_t device) {
  using Find = int32_t (*)(int32_t, void**);
  static const Find find = [] {
    const char* name = "aoti_torch_get_current_cuda_stream";
    void* symbol = dlsym(RTLD_DEFAULT, name);
    if (!symbol) {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      if (library) symbol = dlsym(library, name);
    }
    return reinterpret_cast<Find>(symbol);
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(find && find(device, &stream) == 0, "ms_deform_attn: torch names no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

inline void check_cuda(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "ms_deform_attn: CUDA says: ", cudaGetErrorString(error));
}

// The device and stream that the call works on.
class Device {
 public:
  explicit Device(const Tensor& value) : guard_(value.get_device_index()) {
    // The statically linked runtime keeps its own idea of the current device.
    check_cuda(cudaSetDevice(value.get_device_index()));
    stream_ = current_stream(value.get_device_index());
  }
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) const {
    STD_TORCH_CHECK(blocks <= INT32_MAX, "ms_deform_attn: too many queries and heads for one launch");
    kernel<<<static_cast<unsigned>(blocks), threads, 0, stream_>>>(arguments...);
    check_cuda(cudaGetLastError());
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace gdseg
