# Everything here makes its own .venv first; nothing else needs doing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
GDSEG  := $(BIN)/gdseg
# INSTALL=0: VENV has all that is needed already, nothing is installed into it
STAMP  := $(if $(filter 0,$(INSTALL)),,$(VENV)/.installed)
JOBS   ?= $(shell nproc 2>/dev/null || echo 1)

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint type bench gpu sanitize clean

include kernels/kernels.mk

help: ## show this list
	@grep -hE '^[a-z]+:.*##' Makefile kernels/kernels.mk | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP) kernels-if-possible ## make .venv and install gdseg and its tools into it (about 3 minutes, 6 GB)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP) kernels-if-possible ## the main job on the built-in data set: 10 % labels, teacher -> student -> table and pictures
	$(GDSEG) pretrain --out runs/demo-teacher --overwrite
	$(GDSEG) distill --teacher runs/demo-teacher --ratio 0.1 --out runs/demo --overwrite
	$(GDSEG) eval runs/demo
	rm -rf runs/demo/new_images
	$(GDSEG) data shapes --out runs/demo/new_images --train 1 --val 24 --seed 7
	$(GDSEG) pseudo-label runs/demo runs/demo/new_images/val --out runs/demo/pseudo/labels.json --overwrite
	$(GDSEG) predict runs/demo runs/demo/new_images/val --conf 0.3 --out runs/demo/predictions --overwrite
	$(GDSEG) visualize runs/demo --out runs/demo/curves.png
	$(GDSEG) report runs/demo --overwrite

test: $(STAMP) kernels-if-possible ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

check: lint type test ## format, lint, types, tests

lint: $(STAMP) ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(STAMP) ## types
	$(BIN)/mypy

bench: $(STAMP) kernels-if-possible ## time the parts against their reference on this machine
	$(GDSEG) bench

# One after the other: the tests must not disturb the times. Without network: make gpu INSTALL=0 VENV=path/to/venv
gpu: $(STAMP) ## all that needs a GPU: compile for CUDA, test, time the operator; fails if a test fails or a bar is missed
	@$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit( \
	  f'make gpu: torch {torch.__version__} sees no GPU here; nothing was built or run')"
	@$(BIN)/python -c "import importlib.util as i, sys; i.find_spec('deformops') or print('make gpu: deformops is not', \
	  'installed, its bars will not run: pip install deformops==3.*; it needs Python 3.12 or newer, this is', sys.version.split()[0])"
	$(MAKE) kernels $(OPS_BASELINE) CUDA=1
	@failed=0; export GDSEG_KERNEL=require; set -x; $(BIN)/python -m pytest -m gpu -rs || failed=1; \
	  $(BIN)/python -m gdseg bench op --device cuda --repeats 20 --check || failed=1; exit $$failed

# libasan must come first in the process; it would report what Python itself never frees. gdseg/_lib stays as it is
SANITIZED := build/sanitized
sanitize: $(STAMP) ## the operators' tests on a CPU under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) kernels CUDA=0 SANITIZE=address,undefined OPS_BUILD=$(SANITIZED) OPS_LIB=$(SANITIZED)/libgdseg_ops.so
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 GDSEG_KERNEL=require OMP_NUM_THREADS=1 \
	  GDSEG_KERNEL_LIBRARY=$(abspath $(SANITIZED))/libgdseg_ops.so \
	  $(BIN)/python -m pytest tests/models/test_deform_attn*.py -m 'not gpu'

clean: ## remove what was built, not what was trained
	rm -rf $(VENV) gdseg/_lib build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
