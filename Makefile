# make serve: the ledger on http://127.0.0.1:8000, with a PostgreSQL of its own.
# make test: the suite. make test-all, make test-long: with its longer proofs, and the longest. make quick: what needs no server. make check: lint, types, imports. make bench: the speed, side by side.
# make proof: ten minutes in which everything dies, and a verdict. make models: the protocols across shards, in all orders.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_CACHE_DIR := $(CURDIR)/$(VENV)/.cache

# Hundreds of processes are started in tests: each would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE

PROOF_HOURS ?= 2

# Tests wait for processes a third of their time, so one worker more than cores; at most four.
CORES   := $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4))')
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')

MARKS   ?= not long and not thorough

.PHONY: serve demo verify test test-all test-long quick check checker models proof proof-long proof-upgrade bench bench-against bench-starts bench-growth bench-bombs bench-feed bench-client bench-console bench-soak lock
serve: $(VENV)/.serve
	@exec $(BIN)/ledgerservice serve

demo verify: $(VENV)/.serve
	@exec $(BIN)/ledgerservice $@

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "$(MARKS)" $(PYTEST_ARGS)

# Also what takes seconds and has a cheaper test beside it, and proofs by many repetitions.
test-all: MARKS := not long
test-all: test

# Promises that are broken on purpose, and publishers that are killed again and again.
test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal -m long $(PYTEST_ARGS)

# What needs no server, in some seconds.
quick: $(VENV)/.dev
	LEDGER_SIMULATIONS=20 $(BIN)/python -m pytest -q -n $(CORES) --quick \
	    --ignore tests/api/hostile --ignore tests/oracle $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests of which chance makes the examples, or a part of them; `make checker` makes more.
BY_CHANCE := $(addprefix tests/,oracle api/hostile/test_generated.py api/test_queries.py \
    domain/test_any_batch.py files/test_history.py postgres/test_as_of.py postgres/costs)

# The judge is judged first.
checker: $(VENV)/.dev
	LEDGER_CHECKER_SEEDS=3 LEDGER_SIMULATIONS=1000 $(BIN)/python -m pytest -q -n $(CORES) \
	    tests/proof/test_checker.py tests/proof/test_scenes.py tests/posting/test_simulation.py
	LEDGER_TEST_EXAMPLES=8 $(BIN)/python -m pytest -q -n $(CORES) --dist loadfile $(BY_CHANCE)

# All orders of the steps of a transfer across shards, and of a move. Needs spin and gcc.
models: $(VENV)/.dev
	$(BIN)/python -m tests.models

# Requests of one tenant that name what is another's.
TENANTS := $(BIN)/python -m pytest -q --timeout 0 tests/access/test_tenants.py

proof: checker
	LEDGER_TENANT_REQUESTS=100000 $(TENANTS)
	$(BIN)/python -m tests.proof $(PROOF_ARGS)

proof-long: checker
	LEDGER_TENANT_REQUESTS=1000000 $(TENANTS)
	$(BIN)/python -m tests.proof --minutes $$(($(PROOF_HOURS) * 60)) --totals docs/proof.md $(PROOF_ARGS)

# The release before and this one together, and the schema between them. By default the release
# before is the last tag: make proof-upgrade BASE=v1.2.0
proof-upgrade: $(VENV)/.dev
	$(BIN)/python -m tests.proof.upgrade $(if $(BASE),--base $(BASE)) $(PROOF_ARGS)

# With DATABASE_URL the service on that server beside the embedded one, in turns.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

# This tree beside another commit's, in turns: make bench-against BASE=HEAD~1
bench-against: $(VENV)/.dev
	$(BIN)/python benchmarks/against.py $(BASE) $(BENCH_ARGS)

# From the command to ready, beside another commit's.
bench-starts: $(VENV)/.dev
	$(BIN)/python benchmarks/starts.py $(BASE) $(BENCH_ARGS)

bench-growth: $(VENV)/.dev
	$(BIN)/python benchmarks/growth.py $(BENCH_ARGS)

bench-bombs: $(VENV)/.dev
	$(BIN)/python benchmarks/bombs.py

bench-feed: $(VENV)/.dev
	$(BIN)/python benchmarks/feed.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/publishers.py
	$(BIN)/python benchmarks/commands.py

# The client library beside a request a call, in turns.
bench-client: $(VENV)/.dev
	$(BIN)/python benchmarks/client.py $(BENCH_ARGS)

# The pages of the console on a large ledger, and what an open page costs.
bench-console: $(VENV)/.dev
	$(BIN)/python benchmarks/pages.py $(BENCH_ARGS)

bench-soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py $(BENCH_ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed (make PYTHON=python3.12 ...)."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "Python's venv module is needed (Debian: apt-get install python3-venv)."; exit 1; }

$(VENV)/.serve: requirements.txt requirements-build.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
	    -r requirements.txt -r requirements-build.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	    --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.serve
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
	    -r requirements-dev.txt
	@touch $@

# The locks, after a change in pyproject.toml. Needs uv.
COMPILE = uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11
lock:
	$(COMPILE) pyproject.toml --extra embedded -o requirements.txt
	$(COMPILE) pyproject.toml --extra embedded --extra dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) pyproject.toml -c requirements.txt -o requirements-container.txt
	$(COMPILE) --no-annotate tests/clients/requirements.in -o tests/clients/requirements.txt
	printf 'hatchling\neditables\n' | $(COMPILE) --no-annotate - -o requirements-build.txt
