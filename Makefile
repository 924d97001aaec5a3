# make demo | test | lint | bench     everything runs in .venv, which the first call creates
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint bench clean emulate

$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("edgeguard needs Python 3.11 or newer; run: make PYTHON=python3.11 demo") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/edgeguard demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadscope -m "not slow" tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo-out build *.egg-info

emulate: $(VENV)/.dev  ## the runtime on an emulated arm64 board; needs qemu-user-static
	$(BIN)/python hardware/emulate/prepare.py
	$(BIN)/python hardware/emulate/run.py
