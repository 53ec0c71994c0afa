# Two commands of a fresh machine: `make demo` and `make test`. Each creates .venv, installs, and runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean help

help:
	@echo "make demo              fetch a little music, encode it, train a short run, evaluate, write a listening page"
	@echo "make demo AUDIO=DIR    the same on your own music (a folder or a manifest)"
	@echo "make test              ruff, pyright, and the tests that take seconds"
	@echo "make test-all          ruff, pyright, and every test"
	@echo "make lint              ruff and pyright only"
	@echo "make clean             remove the virtual environment and everything under out/"

demo: $(VENV)/installed
	@$(BIN)/python -m reencoder_eval.demo $(if $(AUDIO),--audio "$(AUDIO)")

# A file's tests run in one process, so that its fixtures are made once and Ray has one cluster at a time.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "the venv module is missing: apt install python3-venv (or your system's equivalent)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out
