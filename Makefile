# `make demo` and `make test` work from a bare clone with python3 (3.11 or newer), pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt requirements-no-deps.txt
# The stamp carries a checksum of its inputs: an unchanged clone skips the set-up, a changed one repeats it.
STAMP := $(VENV)/.ready-$(shell cat $(INPUTS) | cksum | cut -d' ' -f1)

.PHONY: demo test lint typecheck models install clean
.DEFAULT_GOAL := test

demo: models
	$(BIN)/python examples/demo.py

test: lint typecheck models
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: install
	$(BIN)/ruff check .

typecheck: install
	$(BIN)/mypy

models: install
	$(BIN)/kblam models --prepare

install: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("kblam-engine needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@# Debian without python3-venv has no ensurepip: then the system's pip fills the environment.
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
		|| { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --no-deps -r requirements-no-deps.txt
	@rm -f $(VENV)/.ready-*
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
