# serve: the gateway and a local engine on 127.0.0.1:8000.  test: everything that must hold.
# Choose a build of torch:  make serve TORCH_INDEX_URL=<index of the CPU or CUDA build>
PYTHON ?= python3.11
SHELL := /bin/bash
BIN := .venv/bin
export TORCH_INDEX_URL ?=

.DEFAULT_GOAL := help
.PHONY: help serve test test-full lint types imports unit bench clean

help: ## List the commands.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed-serve: pyproject.toml constraints.txt scripts/install.sh
	@PYTHON=$(PYTHON) scripts/install.sh engine
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt scripts/install.sh
	@PYTHON=$(PYTHON) scripts/install.sh engine,train,dev
	@touch .venv/installed-serve $@

serve: .venv/installed-serve ## Install what is missing, then answer on 127.0.0.1:8000 (SPILLWAY_PORT).
	@exec $(BIN)/spillway serve --config demo/spillway.toml

test: .venv/installed-dev lint types imports unit ## Lint, types, import contract and tests.

test-full: .venv/installed-dev lint types imports ## The same with the long suites.
	$(BIN)/pytest -m "not gpu"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

imports: .venv/installed-dev
	$(BIN)/lint-imports

unit: .venv/installed-dev
	$(BIN)/pytest

bench: .venv/installed-dev ## Measure the engine, then the ladder behind the gateway.
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.ladder

clean: ## Forget the installation and every cache.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
