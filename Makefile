# One environment in .venv, built when it is first needed. To use another one: make test PYTHON=python
export HF_HUB_OFFLINE := 1

ifeq ($(origin PYTHON), undefined)
PYTHON := .venv/bin/python
DEMO_READY := .venv/.demo
DEV_READY := .venv/.dev
endif

.DEFAULT_GOAL := help
.PHONY: help demo docs test lint bench real sweep fuzz matrix dist clean

help: ## list what one can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## prune four known networks by half and show sizes, latency and the verification
	$(PYTHON) -m benchmarks.demo

docs: $(DEV_READY) ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

test: $(DEV_READY) ## run the tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto

lint: $(DEV_READY) ## check style, types, and that imports run one way
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache --no-logo

bench: $(DEV_READY) ## measure time, memory, budgets, latency, repair, resuming, accuracy against other libraries, and exports (hours)
	$(PYTHON) -m benchmarks.speed
	$(PYTHON) -m benchmarks.memory
	$(PYTHON) -m benchmarks.budgets
	$(PYTHON) -m benchmarks.latency
	$(PYTHON) -m benchmarks.repair
	$(PYTHON) -m benchmarks.repair_cost
	$(PYTHON) -m benchmarks.resume
	$(PYTHON) -m benchmarks.processes
	$(PYTHON) -m benchmarks.sparse_files
	$(PYTHON) -m benchmarks.sparse_speed
	$(PYTHON) -m benchmarks.compact
	$(PYTHON) -m benchmarks.export_source
	$(PYTHON) -m benchmarks.fifty
	$(PYTHON) -m benchmarks.size_curve
	$(PYTHON) -m benchmarks.compare
	$(PYTHON) -m benchmarks.export_runtimes
	$(PYTHON) -m benchmarks.recipes
	$(PYTHON) -m benchmarks.opinfo
	$(PYTHON) -m benchmarks.figures_page

real: $(DEV_READY) ## download the packages of networks that were really trained into build/real (340 MB), for benchmarks
	$(PYTHON) -m benchmarks.tasks.packages

sweep: $(DEV_READY) ## prune and verify every model of the zoos (half an hour; SWEEP=--sample for minutes)
	$(PYTHON) -m benchmarks.sweep $(SWEEP)

fuzz: $(DEV_READY) ## prune thousands of random networks and check each (an hour; FUZZ='--start 0 --count 500' for others)
	$(PYTHON) -m tests.random_networks --workers 2 $(FUZZ)
	$(PYTHON) -m benchmarks.fuzz
	$(PYTHON) -m benchmarks.faults

matrix: $(DEMO_READY) ## test beside the oldest and newest supported Python, torch, numpy, networkx and Transformers (ENVIRONMENTS=oldest)
	$(PYTHON) -m benchmarks.matrix $(ENVIRONMENTS)

dist: $(DEV_READY) ## build the wheel and the sdist, and check what the package index will check
	rm -rf dist
	$(PYTHON) -m build --outdir dist
	$(PYTHON) -m twine check --strict dist/*

clean: ## remove the environment, caches and unfinished results
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis build dist site benchmarks/results/sweep
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	python3 -m venv .venv

.venv/.demo: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.demo
