# make quickstart   fine-tunes a real model on this machine in a few minutes
# make test         proves the project on this machine
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test lint test-gpu benchmark clean

quickstart: $(READY)
	$(BIN)/python -m luthier quickstart

test: $(READY)
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache

# One environment with the tested versions; made once, and again when the pins change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Luthier needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
