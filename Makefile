# Every target installs what it needs into .venv; PYTHON picks the interpreter that makes it (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test test-slow test-numerics test-versions hub lint bench campaign compile-check clean

install: .venv/installed

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	touch $@

quickstart: install
	$(BIN)/prolap quickstart

# lint, types, ahead-of-time compilation of every kernel for every architecture, and all tests but slow ones and those of a GPU
test: install lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# what is slow and seldom breaks
test-slow: install
	$(BIN)/python -m pytest -m slow

# the tests that compare numbers, as on another machine: a seed picks vector widths, libraries' paths and threads
SEED ?= $(shell git rev-parse --short HEAD)
test-numerics: install
	$(BIN)/python -m tests.numerics $(SEED)

# the kernels' tests on the oldest and newest Python and torch that are promised; interpreters that are absent are skipped
test-versions: install
	$(BIN)/python -m tests.versions

# build/hub: prolap_kernels as a repository of Hugging Face's `kernels`
hub: install
	$(BIN)/python scripts/hub.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# attempts to break what docs/reliability.md promises: minutes each, hours by e.g. `make campaign CAMPAIGN="kills --count 5000"`
CAMPAIGN ?=
campaign: install
	$(BIN)/python -m tests.campaign $(CAMPAIGN)

bench: install
	$(BIN)/python -m benchmarks.run

compile-check: install
	$(BIN)/python -m benchmarks.compile_check

clean:
	rm -rf .venv build *.egg-info
