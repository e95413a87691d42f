# make search: set up .venv and search a network on the embedded digits. make test: set up and pass the tests.
# make test-alone: install each zoo without the other framework and score with it (minutes, 0.5 GB; not in make test).
# make test-cpus: the tests that train, under the kernels and threads of other CPUs (minutes; not in make test).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: search test test-alone test-cpus lint clean

search: $(READY)
	$(BIN)/python search/imagenet_arch_search.py --target_hardware mobile

test: $(READY) lint
	$(BIN)/python -m pytest

test-alone:
	.ci/one_framework torch
	.ci/one_framework tf

test-cpus: $(READY)
	.ci/cpus $(BIN)/python

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV)
