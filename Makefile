# Two commands set everything up: `make demo` runs the main job, `make test` the tests. Both build .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all bench regress reports reports-runs lint setup requirements audit licences sbom clean

setup: $(VENV)/.installed

# Bytecode is compiled by pip at install: without it the first import of vlmeval takes over a minute.
# Third-party files first, each by its hash; then torch, whose builds differ by accelerator and have none; then ARMOR.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt requirements/build.txt requirements/all.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/build.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --no-warn-conflicts -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/armor-eval demo

# Each process takes a stretch of the tests, so that what a file makes once is mostly made once, and at the end half of
# what another has left: with whole files the last long one runs alone.
# One process more than cores: tests wait for processes, sockets and the disk (2 cores: 3 min 34 s, without it 4 min 8 s).
PARALLEL := -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 8 --dist worksteal

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
	$(BIN)/armor-eval report reports/runs --out-file runs/reports/report.html --figures reports/figures

# The runs themselves (about an hour on 2 cores; each resumes where it stopped).
reports-runs: setup
	$(BIN)/armor-eval understanding --bench all --out runs/reports/understanding
	$(BIN)/armor-eval geneval --out runs/reports
	$(BIN)/armor-eval modality --out runs/reports
	$(BIN)/armor-eval modality --multi-turn --out runs/reports
	$(BIN)/armor-eval interleaved --baselines --out runs/reports
	$(BIN)/armor-eval ablate-heads --out runs/reports/ablate-heads
	$(BIN)/armor-eval ablate-stages --out runs/reports/ablate-stages
	$(BIN)/armor-eval report runs/reports --out-file runs/reports/report.html --archive reports/runs
	$(MAKE) reports

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Supply chain (docs/licences.md). Its tools stay out of what is installed for the project.
TOOLS := .venv-tools

$(TOOLS)/.installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv==0.13.9 pip-audit==2.10.1
	touch $@

requirements: $(TOOLS)/.installed
	$(PYTHON) tools/supply.py requirements --uv $(TOOLS)/bin/uv

# --strict: a package that could not be looked up is a failure, not "no known vulnerabilities".
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/all.txt

licences sbom: setup
	$(BIN)/python tools/supply.py $@

clean:
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info
