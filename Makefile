# make demo   build and run //examples/hello:image, with all set-up that needs
# make test   everything: unit, kernel and end-to-end tests, then make check
# make dev    the virtual environment alone        make check  format, lint, types
# make bench  the table of speeds                  make fmt    put the code in form
# make fuzz   broken input for all that reads it, for a minute
# make unit   tests that need only Python          make kernel tests that need namespaces

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := dev
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
# Kernel and end-to-end tests want root, and run their own parts again as an ordinary user. Where
# neither root nor sudo can be had they run as the user alone.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || ! command -v sudo >/dev/null || \
	{ sudo -n true 2>/dev/null && echo sudo -n -E env "PATH=$$PATH" PYTHONDONTWRITEBYTECODE=1; })
PYTEST := $(BIN)/python -m pytest -q
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -qq --no-input

.PHONY: demo test dev check bench fuzz fmt unit kernel packages-run packages-test \
	check-format check-lint check-types check-layers

dev: .venv/made

.venv/made: pyproject.toml
	@if ! [ -x $(BIN)/python ]; then \
	  $(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	    2>/dev/null || .ci/packages venv; \
	  $(PYTHON) -m venv .venv 2>/dev/null || /usr/bin/python3 -m venv --clear .venv; \
	fi
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable . --group dev
	@touch $@

packages-run:
	@.ci/packages run

packages-test:
	@.ci/packages test

demo: packages-run dev
	$(BIN)/buildgraph build //examples/hello:image
	$(BIN)/buildgraph run //examples/hello:image

# --keep-going: one look at the log shows all that is broken, and the exit code still says so.
test: packages-test dev
	@$(MAKE) --keep-going -j1 unit kernel check

unit: dev
	$(PYTEST) -n 2 tests/unit

kernel: packages-test dev
	$(AS_ROOT) $(PYTEST) -p no:cacheprovider tests/kernel tests/e2e

check: dev
	@$(MAKE) --keep-going -j1 check-format check-lint check-types check-layers

check-format:
	$(BIN)/ruff format --quiet --check --output-format concise .

check-lint:
	$(BIN)/ruff check --quiet --output-format concise .

check-types:
	$(BIN)/mypy --no-error-summary

check-layers:
	$(PYTEST) tests/unit/test_layering.py tests/unit/test_names.py

# FUZZ="300 tar git": seconds, and which readers.
fuzz: dev
	@$(PIP) install --group fuzz || echo "atheris cannot be installed here: inputs are made at random"
	$(BIN)/python tests/fuzz $(FUZZ)

bench: packages-test dev
	$(AS_ROOT) $(BIN)/python tests/bench $(BENCH)

fmt: dev
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .
