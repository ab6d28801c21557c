# Everything that a developer or CI does, under one name each. `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
# More arguments for run, test and bench: make test ARGS="-k fair", make run ARGS="--port 9000".
ARGS ?=
ensure := PYTHON="$(PYTHON)" sh tests/setup/ensure-packages.sh

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint format bench soak lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' Makefile

run: .venv/.installed ## Start the service on http://127.0.0.1:8000: embedded SQLite, a worker inside
	@exec $(BIN)/fairlog serve $(ARGS)

test: .venv/.installed ## Lint, then run every test, on SQLite and on a real MariaDB
	@$(ensure) mariadb chromium node
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

lint: .venv/.installed ## Check style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: .venv/.installed ## Measure each figure beside its limit, and write docs/benchmarks.md
	@$(ensure) mariadb wrk chromium
	$(BIN)/python -m tests.benchmarks $(ARGS)

soak: .venv/.installed ## Break things at random under load, then hold every answer against the log
	@$(ensure) mariadb
	$(BIN)/python -m tests.soak $(ARGS)

lock: .venv/.locked ## Compile requirements.lock again (LOCK=--upgrade: with the newest versions)
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --extra dev --generate-hashes \
		--allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options \
		--output-file requirements.lock $(LOCK) pyproject.toml

clean: ## Remove the environment and everything cached or built; databases stay
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Stamps: an environment is made once, filled when the lock changes, and the project is installed
# into it again only when its metadata change. The code itself is read from here (editable).

$(BIN)/python:
	@$(ensure) python
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv

.venv/.locked: requirements.lock | $(BIN)/python
	@echo "Installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml package-lock.json hatch_build.py
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
