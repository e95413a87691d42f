# make search     set up .venv for searching and search a network on the embedded digits
# make test       set up everything and pass the tests (at most 6 minutes on two cores)
# make setup      everything in requirements.txt: both frameworks, export, tests
# make test-slow  all tests, the slow ones too: kill tests at random moments, long trainings
# make test-cpus  the tests that train, under the kernels and threads of other CPUs (minutes)
# make test-faults kills, stops, full disks and cut files at random moments, five of each (an hour)
# make bench      how fast steps of the search, evaluation and reading are here, with verdicts (15 to 20 minutes)
# make examples  run the notebooks of examples/, a few steps each
# make test-alone install each zoo without the other framework and score with it (minutes, 0.5 GB; in no other target)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SEARCH_READY := $(VENV)/.search
READY := $(VENV)/.ready
# each worker holds torch and TensorFlow in a gigabyte or two: no more of them than four
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# hundreds of processes that tests start would each compile what one can leave for all
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench search setup test test-slow test-faults test-cpus test-alone examples lint clean

search: $(SEARCH_READY)
	$(BIN)/python search/imagenet_arch_search.py --target_hardware mobile

setup: $(READY)

test: $(READY) lint
	$(PYTEST)

test-slow: $(READY) lint
	$(PYTEST) --slow

test-faults: $(READY)
	$(BIN)/python -m tests.faults --count 5

test-cpus: $(READY)
	.ci/cpus $(BIN)/python

# each with its verdicts, whatever the one before came to; the exit status is that of the worst
bench: $(READY)
	status=0; for name in bench_depthwise bench_search bench_ranks bench_eval bench_input bench_growth; do \
		$(BIN)/python benchmarks/$$name.py || status=$$?; \
	done; exit $$status

examples: $(READY)
	$(BIN)/python -m pytest --slow tests/scripts/test_examples.py

test-alone:
	.ci/one_framework torch
	.ci/one_framework tf

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# pip takes a package for whole whose installation was cut: what was begun and not ended begins anew
BEGIN = if [ -e $(VENV)/.begun ]; then rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); fi; touch $(VENV)/.begun
END = rm $(VENV)/.begun

# requirements.txt has the only versions: here they constrain what searching needs
$(SEARCH_READY): requirements.txt pyproject.toml | $(BIN)/python
	@$(BEGIN)
	$(PIP) install --constraint requirements.txt --editable .[search,fast]
	@$(END)
	touch $@

$(READY): requirements.txt pyproject.toml | $(BIN)/python
	@$(BEGIN)
	$(PIP) install --requirement requirements.txt
	$(PIP) install --no-deps --editable .
	@$(END)
	touch $@ $(SEARCH_READY)

clean:
	rm -rf $(VENV)
