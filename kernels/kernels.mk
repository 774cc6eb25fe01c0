# `make kernels`: builds gdseg/_lib/libgdseg_ops.so, the operators that gdseg/models/deform_attn_kernel.py loads.
# Included by the Makefile; needs a C++17 compiler and the installed torch. CUDA joins where nvcc and a GPU are:
#   make kernels CUDA=1       compile the CUDA part although this machine has no GPU (minutes)
#   make kernels CUDA=0       leave it out
#   make kernels ARCH="90"    for these GPU generations only (default 80 90 100 120, and PTX of the last)
#   make kernels SANITIZE=address,undefined    with these sanitizers (make sanitize runs the tests so)
# Only libtorch's Stable ABI is used: the file that is built here also loads in later versions of torch.
# the system's, else what pip installs (nvidia-cuda-nvcc and what it needs)
NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null) \
          $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu*/bin/nvcc))
ARCH ?= 80 90 100 120
CUDA ?= $(if $(and $(NVCC),$(wildcard /dev/nvidia0 /dev/nvidiactl)),1,0)

comma       := ,
OPS_LIB     := gdseg/_lib/libgdseg_ops.so
OPS_BUILD   := build/kernels
OPS_CPP     := $(notdir $(wildcard kernels/*.cpp))
OPS_CU      := $(if $(filter 1,$(CUDA)),$(notdir $(wildcard kernels/*.cu)))
OPS_OBJECTS := $(OPS_CPP:%.cpp=$(OPS_BUILD)/%.o) $(OPS_CU:%.cu=$(OPS_BUILD)/%.cuda.o)
OPS_HEADERS := $(wildcard kernels/*.h)
# what the objects depend on besides their sources: another choice or another torch rebuilds
OPS_CHOICE  := $(OPS_BUILD)/choice

TORCH = $(shell $(BIN)/python -c "import importlib.util, os; print(os.path.dirname(importlib.util.find_spec('torch').origin))")
TORCH_VERSION = $(shell $(BIN)/python -c "from importlib.metadata import version; print(version('torch'))")
CUDA_HOME = $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
OPS_ARCH  = $(if $(OPS_CU),sm_$(subst $(eval) ,$(eval) sm_,$(strip $(ARCH))),none)
OPS_TEXT  = built with $$($(CXX) -dumpfullversion | sed 's/^/$(notdir $(CXX)) /') for torch $(TORCH_VERSION), CUDA: $(OPS_ARCH)

# how the official projects run it, for the bench alone
OPS_BASELINE := $(OPS_BUILD)/one_thread_a_channel.so

# one rounding an operation, as written: the same numbers from every compiler
OPS_FLAGS   = -O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -DTORCH_TARGET_VERSION=0x020b000000000000
OPS_INCLUDE = -isystem $(TORCH)/include -isystem $(TORCH)/include/torch/csrc/api/include
OPS_GENCODE = $(foreach a,$(ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
              -gencode arch=compute_$(lastword $(ARCH)),code=compute_$(lastword $(ARCH))
OPS_SAN     = $(if $(SANITIZE),-g1 -O0 -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
# lib64 in NVIDIA's own layout, lib in pip's
OPS_CUDALIB = -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib
OPS_CUDART  = $(if $(OPS_CU),$(OPS_CUDALIB) -lcudart_static -ldl -lrt -lpthread)

.PHONY: kernels kernels-if-possible
kernels: $(OPS_LIB) ## compile the deformable-attention operators (CUDA=0|1, ARCH="80 90"; see kernels/kernels.mk)

# for targets that work without: says what happened and never fails
kernels-if-possible:
	@if command -v $(CXX) >/dev/null; then $(MAKE) --no-print-directory kernels || \
	  echo "the kernels did not build (see above): gdseg runs its slower PyTorch path"; \
	else echo "no C++ compiler ($(CXX)): gdseg runs its slower PyTorch path"; fi

$(OPS_LIB): $(OPS_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) -shared $(OPS_SAN) $^ -o $@.new -L$(TORCH)/lib -Wl,--no-as-needed -ltorch_cpu \
	  $(if $(SANITIZE),,-Wl$(comma)--no-undefined) $(OPS_CUDART)
	@mv $@.new $@
	@echo "$@: $(OPS_TEXT)"

$(OPS_BUILD)/%.o: kernels/%.cpp $(OPS_HEADERS) $(OPS_CHOICE)
	@command -v $(CXX) >/dev/null || { echo "no C++ compiler: '$(CXX)' was not found; install g++ or name one with CXX=" >&2; exit 1; }
	$(CXX) $(OPS_FLAGS) $(OPS_SAN) $(OPS_EXTRA) $(OPS_INCLUDE) -c $< -o $@

$(OPS_BUILD)/cpu_avx2.o: OPS_EXTRA = $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma -mf16c)
$(OPS_BUILD)/library.o: OPS_EXTRA = -DGDSEG_BUILD="\"$(OPS_TEXT)\""

OPS_NEEDS_NVCC = @test -n '$(NVCC)' || { echo "no CUDA compiler: nvcc was not found; name one with NVCC=" >&2; exit 1; }

$(OPS_BUILD)/%.cuda.o: kernels/%.cu $(OPS_HEADERS) $(OPS_CHOICE)
	$(OPS_NEEDS_NVCC)
	$(NVCC) $(OPS_FLAGS:-f%=-Xcompiler -f%) -Xfatbin -compress-all --threads 0 $(OPS_GENCODE) $(OPS_INCLUDE) -c $< -o $@

$(OPS_BASELINE): kernels/baseline/one_thread_a_channel.cu $(OPS_CHOICE)
	$(OPS_NEEDS_NVCC)
	$(NVCC) -O3 -std=c++17 -Xcompiler -fPIC $(OPS_GENCODE) $(OPS_CUDALIB) -shared $< -o $@

$(OPS_CHOICE): $(STAMP) FORCE
	@mkdir -p $(@D)
	@echo '$(CXX) $(TORCH_VERSION) $(OPS_ARCH) $(SANITIZE)' > $@.new; cmp -s $@.new $@ || cp $@.new $@
FORCE:
