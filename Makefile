# Two commands: `make demo` and `make test`. Each sets up .venv with pinned versions first (needs only Python >= 3.11).
# Python compiles a module when it is first imported and keeps the bytecode, so set-up imports what the stages import;
# compiling all modules at installation takes longer than the rest. Without bytecode each process compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORES ?= all

.PHONY: demo test test-wide test-faults check readme-table setup clean docs bench-gpu
.DEFAULT_GOAL := setup

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"tad needs Python >= 3.11, {sys.executable} is {sys.version.split()[0]}; name another with PYTHON=...")'
	@echo "setting up .venv (once; a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@$(BIN)/python workflow_scripts/precompile.py 2>> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python -m tad run --cores $(CORES) results/demo/map.json
	@$(BIN)/python workflow_scripts/results_table.py results/demo/map.json --out results/demo/table.md
	@echo "detections  results/demo/detections.json"
	@echo "score       results/demo/map.json (every number behind the table)"
	@echo "picture     results/demo/timeline.png (ground truth and detections of one video)"
	@echo "logs        results/demo/logs/; settings: $(BIN)/tad show demo"

# `make demo` does not install what only the tests and the optional extras need.
DEV := .venv/.dev
$(DEV): $(READY) requirements-dev.txt requirements-extras.txt
	@echo "installing what the tests need (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@touch $(DEV)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy tad
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Archive the scores in SCORES="results/demo/map.json …" and write the table of all archived scores to docs/results.md.
readme-table: $(READY)
	@$(BIN)/python workflow_scripts/readme_table.py $(SCORES)

# `test` and `test-wide` together run every test once. `test-wide` covers further sizes, data sets and backbones.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder

# mediapipe pins old versions of packages that tad needs newer; only the model inside it is used.
MODELS := .venv/.models
$(MODELS): $(DEV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps mediapipe==0.10.14 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@touch $(MODELS)

test: check $(MODELS)
	$(PYTEST) -m "not wide"

# Packages of annotation tools, in an environment of their own: some want other versions of what tad needs.
TOOLS := .venv/tools
$(TOOLS)/.ready: tests/label_tools.txt $(READY)
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r tests/label_tools.txt
	@touch $(TOOLS)/.ready

test-wide: export TAD_LABEL_TOOLS = $(abspath $(TOOLS))/bin/python
test-wide: $(MODELS) $(TOOLS)/.ready
	$(PYTEST) -m wide

# Kills, full disks, bit rot and hostile files, in less than BUDGET seconds; prints one table (docs/reliability.md).
BUDGET ?= 1080
test-faults: $(DEV)
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run.py --budget $(BUDGET) $(if $(DOC),--doc $(DOC))

# All GPU measurements, in less than 20 minutes: one dated report. Needs a CUDA device.
bench-gpu: $(DEV)
	PYTHONPATH=. $(BIN)/python benchmarks/bench_gpu.py --out benchmarks/reports/gpu_$$(date +%F).md

# The documentation site, in results/site/; nothing is loaded from the network when it is read.
SITE := .venv/.site
$(SITE): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile mkdocs-material==9.8.2 mkdocstrings-python==2.0.11 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@touch $(SITE)

docs: $(SITE)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site        results/site/index.html"

clean:
	rm -rf results .snakemake
