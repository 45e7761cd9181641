# Two commands: `make demo` and `make test`. Each sets up .venv with pinned versions first (Python >= 3.11, nothing else).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORES ?= all

.PHONY: demo test check readme-table setup clean
.DEFAULT_GOAL := setup

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"tad needs Python >= 3.11, {sys.executable} is {sys.version.split()[0]}; name another with PYTHON=...")'
	@echo "setting up .venv (once; a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@$(BIN)/python -c 'from tad.nms import compile_loops; compile_loops()'
	@touch $(READY)

demo: $(READY)
	@$(BIN)/snakemake --cores $(CORES) results/demo/map.json
	@$(BIN)/python workflow_scripts/results_table.py results/demo/map.json --out results/demo/table.md
	@echo "detections  results/demo/detections.json"
	@echo "score       results/demo/map.json (every number behind the table)"
	@echo "picture     results/demo/timeline.png (ground truth and detections of one video)"
	@echo "logs        results/demo/logs/; settings: $(BIN)/tad show demo"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy tad
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Keeps the scores named, as SCORES="results/demo/map.json …", and makes the README's table of all that are kept.
readme-table: $(READY)
	@$(BIN)/python workflow_scripts/readme_table.py $(SCORES)

test: check
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder

clean:
	rm -rf results .snakemake
