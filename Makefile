# The book's kitchen. `make help` lists what can be had.
#   make PYTHON=/path/to/python3.12 …                              another Python (3.11 or newer)
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu    a CPU-only torch: 5 GB less; later makes keep to it
#   make report ARGS="-p epochs=3 -p data=my.csv"                  parameters of the report
PY := .venv/bin/python
ARGS ?=
# Two processes share the work of `make test`, so each keeps to one thread.
JOBS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Threads that wait for each other sleep soon instead of spinning: with spinning, one other busy process starves two threads on two cores
# (finetune_book.processes).
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 1000
# setup installs without compiling, so Python has to keep what it compiles: in a container where this is set, each start would compile
# torch and transformers again (importing both: 12 s instead of 5 s).
unexport PYTHONDONTWRITEBYTECODE
export PYTHON TORCH_INDEX
PICK = $(shell PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/setup.sh pick)
# One line and exit 2 where no Python will do.
NEED_PYTHON = $(eval PICKED := $(PICK))$(if $(filter !%,$(firstword $(PICKED))),$(error $(patsubst !%,%,$(PICKED))))

.DEFAULT_GOAL := help
.PHONY: help setup report test lab test-lab costs book picture bench bench-small bases lock export clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: ## build .venv from requirements.lock if it is missing, stale or half built
	$(NEED_PYTHON)
	@sh tools/setup.sh build

report: setup ## run the text fine-tuning report; the last line is the path of one HTML file
	@.venv/bin/finetune-book report finetune_text $(ARGS)

# --no-loadscope-reorder: the files come in the order of tests/conftest.py, not by how many tests they hold.
test: setup ## the library agrees with the notebooks, every notebook runs, every test passes
	@$(PY) tests/house/sync_gate.py
	@$(ONE_THREAD) $(PY) tests/house/run_notebooks.py --jobs $(JOBS)
	@$(ONE_THREAD) $(PY) -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder tests $(ARGS)

lab: setup ## read and run the lessons in JupyterLab, in a working copy (_lab): the checkout stays clean
	@$(PY) tools/lab.py $(ARGS)

test-lab: setup ## run every lesson in a real JupyterLab in headless Chromium
	@FINETUNE_BOOK_LAB_TESTS=all $(ONE_THREAD) $(PY) -m pytest -rs tests/build/test_lab.py $(ARGS)

costs: setup ## write the costs lines of the lessons from their table; ARGS="--measure 11_losses" measures one anew first, "--measure" all
	@$(PY) tools/costs.py $(ARGS)

book: setup ## the lessons as a web site in _book (needs Quarto)
	@if command -v quarto >/dev/null 2>&1; then $(PY) tools/book.py; \
	else echo "no quarto on the PATH: install it from https://quarto.org to render the web site; lessons and reports do without"; fi

picture: setup ## the picture of a report on the README and the home page, drawn anew (needs Chromium)
	@$(PY) tools/picture.py "$$(.venv/bin/finetune-book report finetune_text $(ARGS) | tail -n 1)"

bench: setup ## speed against what a reader would use instead, about 40 minutes; ARGS=--quick is a look, ARGS=--help lists the rest
	@$(PY) bench/against $(ARGS)

bench-small: setup ## the small measurements that lessons name (bench/*.py), one after the other
	@set -e; for f in bench/[!_]*.py; do [ -e "$$f" ] || { echo "bench/ is empty"; exit 0; }; $(PY) "$$f"; done

bases: setup ## make book-bert again from its teacher: TEACHER= REAL= PACKAGES= WORK= (its card, data/book-bert/README.md, says what to fetch)
	@$(PY) scripts/bases/make_book_bert.py --teacher "$(TEACHER)" --real "$(REAL)" --packages "$(PACKAGES)" --work "$(WORK)" --out data/book-bert

export: setup ## after editing a lesson: write its module, strip run counts and stray metadata
	@.venv/bin/nbdev_export && .venv/bin/nbdev_clean && $(PY) tests/house/sync_gate.py

# --extra dev, not --all-extras: what bench/ compares with is no part of the environment.
lock: ## refresh requirements.lock (uv in a throw-away environment; the next make rebuilds .venv)
	$(NEED_PYTHON)
	@d=$$(mktemp -d) && trap 'rm -rf "$$d"' EXIT INT TERM && $(if $(filter current,$(PICKED)),$(PY),$(PICKED)) -m venv "$$d/uv" \
	&& "$$d/uv/bin/pip" install --quiet --disable-pip-version-check uv \
	&& "$$d/uv/bin/uv" pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --extra dev \
	   --no-annotate --no-header -o "$$d/lock" && cp "$$d/lock" requirements.lock && wc -l requirements.lock

clean: ## remove what builds and tests leave; keeps .venv and reports/
	@rm -rf build dist _book _proc .pytest_cache .ruff_cache *.egg-info
	@find finetune_book nbs tests tools bench data \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
