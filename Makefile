# Everything one does with this tree. The sets of packages are locked in requirements/; .venv is made from them and is
# never needed in git. Paths here are relative, so that a folder with spaces in its name works.
#
#   make demo     the race, its proof and its fixes, in a minute     make bench   CPU per request beside others
#   make test     the whole suite                                    make lock    remake requirements/ (needs network)
#   make check    lint, format, types, architecture                  make clean   remove what these verbs made
#   make fuzz     the fuzzers, for a minute                          make faults  what breaks around the proxy, in full
#   make compiled the proxy as C extensions, in build/compiled; needs a C compiler and Python's headers
#
# PYTHON=/path/to/python3 chooses the interpreter of .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest

# Stamps: what .venv holds. `lab` is what the demo needs; `dev` is everything and contains it.
MADE := $(VENV)/.made
LAB  := $(VENV)/.lab
DEV  := $(VENV)/.dev

# The compiled proxy: its folder, made anew when a source changes, and the way to run Python so that it comes first.
COMPILED := build/compiled
HEADERS  := import os, sysconfig; print("yes" * os.path.exists(sysconfig.get_path("include") + "/Python.h"))
HAS_C    := $(shell command -v cc >/dev/null && "$(PYTHON)" -c '$(HEADERS)' 2>/dev/null)
AS_C     := PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)/$(COMPILED)"

LOCKER := uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz faults bench compiled lock clean
.DELETE_ON_ERROR:
# pip must not run twice in one environment at a time.
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(LAB)
	@$(BIN)/kalab demo

# The timing-sensitive tests run alone, after the others. ARGS="-k pool" narrows the fast ones and leaves the rest out.
test: $(DEV) $(if $(ARGS),,$(if $(HAS_C),compiled))
	@echo "tests: fast"
	@$(PYTEST) -q -m "not race and not faults" $(ARGS)
	@$(if $(ARGS),,$(if $(HAS_C),$(TEST_COMPILED),$(NOT_COMPILED)))
	@$(if $(ARGS),,echo "tests: races and faults over real sockets, one at a time")
	@$(if $(ARGS),,$(PYTEST) -q -m "race or faults")

NOT_COMPILED = echo "tests: no C compiler or no Python.h, so the compiled proxy is not tested"; test -z "$$CI"
TEST_COMPILED = echo "tests: the same of the proxy, compiled"; $(AS_C) $(PYTEST) -q --compiled \
	-o pythonpath="$(COMPILED) . tests/proxy tests/corpus" -m "not race and not faults and not plain" \
	tests/corpus tests/proxy

check: $(DEV)
	@echo "check: lint"; $(BIN)/ruff check --quiet .
	@echo "check: format"; $(BIN)/ruff format --quiet --check .
	@echo "check: types"; $(BIN)/mypy --strict --no-error-summary
	@echo "check: architecture"; $(PYTEST) -qq tests/test_architecture.py tests/test_project.py

# ARGS="--seconds 600 --seed 7 requests" makes it longer, or one target's; ARGS="--counts full" runs as many as
# docs/armour.md says, in a quarter of an hour. What is found goes to runs/fuzz/.
fuzz: $(DEV)
	@$(BIN)/python tests/fuzz $(ARGS)

# About an hour, most of it the soak, a million requests through the pool, and every scenario spoilt in every way.
faults: $(DEV)
	@$(PYTEST) -q -s -m faults --full $(ARGS)

bench: $(LAB)
	@$(BIN)/python -m bench.run $(ARGS)

compiled: $(COMPILED)/.made

$(COMPILED)/.made: hatch_build.py pyproject.toml $(shell find proxy -name '*.py') $(DEV)
	@echo "setup: the compiled proxy"
	@rm -rf $(COMPILED)
	@KALAB_COMPILE=1 $(PIP) install --no-deps --no-build-isolation --target $(COMPILED) .
	@touch $@

# dev is resolved first and constrains the others, so that one environment grows from lab to dev without a change.
lock: $(DEV)
	@echo "lock: requirements/"
	@$(BIN)/python -m pip -qq --disable-pip-version-check install "uv>=0.13,<0.14"
	@$(BIN)/$(LOCKER) --upgrade pyproject.toml --extra dev --group editable -o requirements/dev.txt
	@$(BIN)/$(LOCKER) pyproject.toml --extra lab --group editable -c requirements/dev.txt -o requirements/lab.txt
	@$(BIN)/$(LOCKER) pyproject.toml -c requirements/dev.txt -o requirements/proxy.txt

clean:
	@rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: $(PYTHON) not found; kalab needs Python 3.11 or newer (make PYTHON=/path/to/python3)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setup: $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(LAB): pyproject.toml requirements/lab.txt | $(MADE)
	@echo "setup: the proxy and the lab"
	@$(PIP) install --require-hashes -r requirements/lab.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): pyproject.toml requirements/dev.txt requirements/lab.txt | $(MADE)
	@echo "setup: everything the tests need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(LAB) $@
