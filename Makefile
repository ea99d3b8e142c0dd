# laconic: every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.laconic-installed
# Nothing here needs the network once installed; a look-up that sneaks in should fail, not wait.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment in .venv (again when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "laconic needs Python 3.11 or newer, and $(PYTHON) is older: make setup PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# --no-compile: byte code of the few modules that run is made on first use, a minute less to wait
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the bundled reasoner on held-out problems, full KV against RPC (offline, about a minute)
	$(OFFLINE) $(BIN)/laconic demo

test: setup  ## all tests
	$(OFFLINE) $(BIN)/python -m pytest $(PYTEST_FLAGS)

check: setup  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(OFFLINE) $(BIN)/python -m pytest $(PYTEST_FLAGS)

format: setup  ## let ruff rewrite the layout of the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write docs/cli.md anew from the commands' own help
	$(BIN)/python docs/make_cli_page.py

bench: setup  ## the CPU benchmarks (accuracy on the bundled reasoner, throughput presets); see benchmarks/README.md
	$(OFFLINE) $(BIN)/laconic bench accuracy --problems 50 --samples 2 --out runs/accuracy
	$(OFFLINE) $(BIN)/laconic bench throughput --preset cpu-kv --out runs/throughput-cpu-kv

clean:  ## remove the environment and what builds and tests leave behind
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
