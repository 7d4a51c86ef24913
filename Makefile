# make demo    a first run, end to end            make test   what CI runs
# make check   linters and types alone            make slow   every benchmark, at toy size
# make docs    the documents as a site            make lock   pin dependencies anew
# Another interpreter: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo ok),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin

# what is imported is compiled then: compiling all that is installed takes twice as long;
# and it is kept, whatever is set, or every program that a test starts compiles JAX anew
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# the stamps make every set-up run once, and again only when what it installs changes
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
DOCUMENTED := $(VENV)/.documented

.PHONY: demo test slow check docs lock clean

demo: $(INSTALLED)
	$(BIN)/dpet run configs/quickstart.yaml --overwrite

test: check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow"

slow: $(TESTABLE)
	$(BIN)/python -m pytest -m slow

check: $(TESTABLE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DOCUMENTED)
	$(BIN)/python docs/build.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(TESTABLE): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	@touch $(INSTALLED) $@

$(DOCUMENTED): $(INSTALLED)
	$(PIP) --editable '.[docs]'
	@touch $@

# one file for both Pythons, without addresses of any index in it
lock:
	uv pip compile --universal --all-extras --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --upgrade pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) .site .pytest_cache .mypy_cache .ruff_cache
