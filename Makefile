# The two commands of the README, and what CI calls. Needs Linux, Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Tests run in JOBS processes of one thread, a file of them in one. They start some hundred more, each of which would
# compile the package anew where Python may not keep what it compiled.
JOBS ?= 2
TESTS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope
unexport PYTHONDONTWRITEBYTECODE
# Where no GPU is, torch comes as its CPU build, from PyTorch's own index where pip's has none.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help demo test test-all oldest gpu gpu-check wheel-check check ci lint types speed clean

help:
	@echo "make demo       install, convert the embedded digits, train, evaluate, draw (under 10 minutes on 2 cores)"
	@echo "make test       install what the tests need, and run the fast ones: every promise, at small size"
	@echo "make test-all   the slow ones too: the same promises at large size; TESTS=tests/store runs a part"
	@echo "make oldest     the fast ones, with the oldest versions of all packages that pyproject.toml allows"
	@echo "make check      ruff, mypy, the speed of --help, and the fast tests: before each commit"
	@echo "make ci         what must hold before a change lands: check with all tests, oldest, gpu-check and wheel-check"
	@echo "make gpu        with a GPU: parity, speed, training and conversions, in 9 minutes"
	@echo "make gpu-check  the kernels for GPUs, tested without one"
	@echo "make wheel-check   the wheel, installed alone: its help, and a small conversion"

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
	$(PYTEST) -m 'not slow' $(TESTS)

test-all: $(VENV)/.dev
	$(PYTEST) $(TESTS)

# The fast tests with the oldest versions that pyproject.toml allows. What those are built on is newer, and says that some
# of it will go.
oldest:
	$(MAKE) VENV=$(VENV)-oldest $(VENV)-oldest/.torch
	$(PYTHON) tests/oldest.py > $(VENV)-oldest/oldest.txt
	$(VENV)-oldest/bin/python -m pip --disable-pip-version-check install --quiet -c $(VENV)-oldest/oldest.txt -e '.[dev]'
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -n $(JOBS) --dist loadscope -m 'not slow' \
	  -W ignore::DeprecationWarning $(TESTS)

# The kernels for GPUs, without one: values in Triton's interpreter, then compiled for cards that are not here.
gpu-check: $(VENV)/.dev
	@if said=$$($(PIP) -e '.[gpu-check]' 2>&1); then \
	  TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/gpu && $(BIN)/python -m pytest tests/gpu; \
	else echo "gpu-check is skipped, Triton cannot be had here: $$said" | tail -n 3; fi

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

# What a user gets: the wheel in an environment of its own, outside of the checkout.
wheel-check: $(VENV)/.dev
	rm -rf build $(VENV)-wheel
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	$(MAKE) VENV=$(VENV)-wheel $(VENV)-wheel/.torch
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet build/wheel/*.whl
	cd $(VENV)-wheel && bin/arcpipe --help >/dev/null && bin/arcpipe convert digits --limit 20 --workers 1 \
	  --set fit.pretrain_images=20 --set fit.pretrain_steps=3 --out digits.zarr && bin/arcpipe verify digits.zarr --decode 5
	rm -rf build $(VENV)-wheel

check: lint types speed test

ci: lint types speed test-all oldest gpu-check wheel-check

clean:
	rm -rf $(VENV) $(VENV)-wheel $(VENV)-oldest .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
