# Two commands set everything up: `make demo` runs the main job, `make test` the tests. Both build .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all bench regress reports reports-runs lint setup clean

setup: $(VENV)/.installed

# Bytecode is compiled by pip at install: without it the first import of vlmeval takes over a minute.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt 'setuptools>=77,<81' wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/armor-eval demo

# Tests of one file stay in one process, so that what a file makes once is made once.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

test-all: setup
	$(BIN)/python -m pytest $(PARALLEL) -m 'not perf'

# Ratios side by side; the table is printed last and written to runs/bench.json.
bench: setup
	$(BIN)/python -m pytest -m perf tests/perf

# The embedded profile against the committed baseline: a change that harms the model or the scoring is seen here.
regress: setup
	rm -rf runs/regress
	$(BIN)/armor-eval understanding --bench all --out runs/regress
	$(BIN)/armor-eval geneval --out runs/regress
	$(BIN)/armor-eval compare armor-nano runs/regress --out runs/regress/compare

# Tables and figures of reports/ from the runs kept there (seconds).
reports: setup
	$(BIN)/armor-eval tables reports/runs --out reports/tables
	$(BIN)/armor-eval report reports/runs --out runs/reports/report.html --figures reports/figures

# The runs themselves (about an hour on 2 cores; each resumes where it stopped).
reports-runs: setup
	$(BIN)/armor-eval understanding --bench all --out runs/reports/understanding
	$(BIN)/armor-eval geneval --out runs/reports
	$(BIN)/armor-eval modality --out runs/reports
	$(BIN)/armor-eval interleaved --baselines --out runs/reports
	$(BIN)/armor-eval ablate-heads --out runs/reports/ablate-heads
	$(BIN)/armor-eval ablate-stages --out runs/reports/ablate-stages
	$(BIN)/armor-eval report runs/reports --out runs/reports/report.html --archive reports/runs
	$(MAKE) reports

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
