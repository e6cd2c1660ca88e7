# `make demo` and `make test` work from a bare clone with python3 (3.11 or newer), pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt requirements-no-deps.txt
# The stamps carry a checksum of their inputs: an unchanged clone skips the set-up, a changed one repeats it.
SUM := $(shell cat $(INPUTS) | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.ready-$(SUM)
DEV_STAMP := $(VENV)/.ready-dev-$(SUM)
# Packages that only bring files lack most of their dependencies, and pip would say so in red after each later install.
# Versions that cannot go together still stop it.
INSTALL := $(BIN)/python -m pip install --no-warn-conflicts -c constraints.txt

.PHONY: demo test test-cluster test-kills lint typecheck models install install-dev clean
.DEFAULT_GOAL := test

demo: models
	$(BIN)/python examples/demo.py

test: lint typecheck install-dev models
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Ray on two cores of this machine; 330 MB more to install, so it is on its own.
test-cluster: install-dev models
	$(INSTALL) -e ".[cluster,cluster-serve]"
	$(BIN)/python -m pytest tests/test_cluster.py tests/test_cluster_ray.py tests/test_cluster_serving.py

# A writer killed at random 200 times, half of them on the way of large imports.
test-kills: install-dev models
	KBLAM_KILLS=200 $(BIN)/python -m pytest tests/test_store_faults.py -k killed_at_any_time

lint: install-dev
	$(BIN)/ruff check .

typecheck: install-dev
	$(BIN)/mypy

models: install
	$(BIN)/kblam models --prepare

# What the package needs, and the files of the embedded model and the demo's data.
install: $(STAMP)

# And what the tests need: frameworks, readers of file formats, linters.
install-dev: $(DEV_STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("kblam-engine needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@# Debian without python3-venv has no ensurepip: then the system's pip fills the environment.
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
		|| { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(INSTALL) -e .
	$(BIN)/python -m pip install --no-deps -r requirements-no-deps.txt
	@rm -f $(VENV)/.ready-*
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
