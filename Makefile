# One command each; `make help` lists them. Nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools/proto
# Environments of backends are several gigabytes: the demo and the tests share them.
export TUNEFLEET_ENVS ?= $(CURDIR)/.envs

BASE_STAMP := $(VENV)/.base-stamp
DEV_STAMP := $(VENV)/.dev-stamp
TOOLS_STAMP := $(TOOLS)/.stamp
BACKENDS_STAMP := .envs/.stamp
SGLANG_ON_CPU := plugins/sglang/tests/on_cpu

.PHONY: help setup demo test test-all lint proto format bench docs clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BASE_STAMP): pyproject.toml plugins/echo/pyproject.toml plugins/families/pyproject.toml plugins/formats/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing tunefleet into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all]" openai
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-e plugins/echo -e plugins/families -e plugins/formats
	@touch $@

$(DEV_STAMP): $(BASE_STAMP)
	@echo "Installing development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

$(TOOLS_STAMP): Makefile
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@# The generator is old on purpose (see proto/generate.py): it needs pkg_resources, and its
	@# own bound on protobuf is left aside, because the writer of type stubs needs a newer one.
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		grpcio==1.85.1 protobuf==7.36.2 "setuptools<81" mypy-protobuf==5.1.0 buf-bin==1.75.0
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps grpcio-tools==1.66.2
	@touch $@

$(BACKENDS_STAMP): $(BASE_STAMP) $(wildcard plugins/*/pyproject.toml) $(wildcard plugins/*/*/locks/*.txt)
	@$(BIN)/tunefleet plugins install trl
	@$(BIN)/tunefleet plugins install embedded
	@touch $@

# What few tests need: `tests/run_all.py --all` asks for these while it runs the others.
.envs/.%-stamp: $(BACKENDS_STAMP)
	@$(BIN)/tunefleet plugins install $*
	@touch $@

# SGLang without its kernels is for tests alone, so it is no plugin among the others.
.envs/.sglang-on-cpu-stamp: $(BACKENDS_STAMP) $(wildcard $(SGLANG_ON_CPU)/*/locks/*.txt)
	@$(BIN)/tunefleet plugins install $(SGLANG_ON_CPU)
	@touch $@

setup: $(DEV_STAMP) $(TOOLS_STAMP) $(BACKENDS_STAMP)  ## Make everything that development needs

demo:  ## Fine-tune, serve and chat, from nothing, on this machine
	@started=$$(date +%s); $(MAKE) --no-print-directory $(BASE_STAMP) && DEMO_STARTED=$$started $(BIN)/python examples/demo/demo.py

test: $(DEV_STAMP) $(BACKENDS_STAMP)  ## The tests a newcomer runs: real processes, some 10 minutes
	@$(BIN)/python tests/run_all.py

test-all: $(DEV_STAMP) $(BACKENDS_STAMP)  ## Every test, the slow ones and more seeds too
	@$(BIN)/python tests/run_all.py --all

lint: $(DEV_STAMP) $(TOOLS_STAMP)  ## Style, types, layers, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(TOOLS)/bin/buf lint
	$(TOOLS)/bin/buf format --diff --exit-code
	$(TOOLS)/bin/buf breaking --against proto/baseline.binpb.gz
	PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH $(TOOLS)/bin/python proto/generate.py --check
	$(BIN)/python clients/generate_sync.py --check

proto: $(DEV_STAMP) $(TOOLS_STAMP)  ## Generate the stubs and the sync face of the SDK again
	@PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH $(TOOLS)/bin/python proto/generate.py
	@$(BIN)/python clients/generate_sync.py

format: $(DEV_STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP) $(BACKENDS_STAMP)  ## Measure, as ratios in paired runs
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs:  ## Where the documentation is
	@echo "docs/README.md, docs/adr/, and the README of each folder"

clean:  ## Remove what the targets above made
	rm -rf $(VENV) .tools .envs .state
