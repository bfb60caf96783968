# Every target installs what it needs into .venv; PYTHON picks the interpreter that makes it (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test lint bench compile-check clean

install: .venv/installed

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	touch $@

quickstart: install
	$(BIN)/prolap quickstart

# lint, types, ahead-of-time compilation of every kernel for every architecture, and all tests that need no GPU
test: install lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.run

compile-check: install
	$(BIN)/python -m benchmarks.compile_check

clean:
	rm -rf .venv build *.egg-info
