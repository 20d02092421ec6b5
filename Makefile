# The two commands of the README, and what CI calls. Needs Linux, Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Where no GPU is, torch comes as its CPU build, from PyTorch's own index where pip's has none.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help demo test test-slow gpu gpu-check check lint types speed clean

help:
	@echo "make demo       install, convert the embedded digits, train, evaluate, draw (under 10 minutes on 2 cores)"
	@echo "make test       install what the tests need, and run them"
	@echo "make check      ruff, mypy, the speed of --help, and the tests"
	@echo "make gpu        with a GPU: parity, speed, training and conversions, in 9 minutes"
	@echo "make gpu-check  the kernels for GPUs, tested without one"
	@echo "make test-slow  the tests that run for minutes"

$(VENV)/.torch: constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit("arcpipe needs Python 3.11 or newer; try: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
ifeq ($(HAS_GPU),)
	@echo "no GPU here: installing the CPU build of torch"
	$(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_CPU_INDEX) -r constraints-cpu.txt
endif
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/arcpipe run pipelines/digits.toml
	$(BIN)/arcpipe inspect store/digits.zarr --out inspect/digits
	@echo
	@echo "Look at:   inspect/digits/best-median-worst.png   originals, reconstructions, anchors, errors"
	@echo "           runs/digits/curves.png                 loss and accuracy"
	@echo "           runs/digits/confusion.png              what is taken for what"
	@echo "Try next:  $(BIN)/arcpipe inspect store/digits.zarr test/3 --scale 4"
	@echo "           $(BIN)/arcpipe verify store/digits.zarr"
	@echo "           $(BIN)/arcpipe convert FOLDER-OF-IMAGES && $(BIN)/arcpipe train --store store/FOLDER-OF-IMAGES.zarr"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# The kernels for GPUs, without one: values in Triton's interpreter, then compiled for cards that are not here.
gpu-check: $(VENV)/.dev
	@if $(PIP) -e '.[gpu-check]' 2>/dev/null; then \
	  TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/gpu && $(BIN)/python -m pytest tests/gpu; \
	else echo "skipped: Triton cannot be had from pip's index for this machine"; fi

# Everything that a card should prove, in 9 minutes; docs/gpu.md has its tables.
gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py --out gpu.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

speed: $(VENV)/.dev
	$(BIN)/python benchmarks/help_speed.py $(BIN)/arcpipe

check: lint types speed test

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
