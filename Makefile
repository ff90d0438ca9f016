# Every chore of the project. `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Most tests wait more than they compute. What one file starts serves its tests, so files stay whole; and they come in
# their own order: by the number of their tests, those that take minutes would come last, one beside idle workers.
WORKERS ?= 2

.PHONY: help
help: ## List every chore
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: .venv/.ready ## Prepare everything: virtual environment with pinned versions, RabbitMQ
	@tools/prepare.sh rabbitmq

.venv/.ready: constraints.txt pyproject.toml proto/pyproject.toml client/pyproject.toml $(wildcard libs/*/pyproject.toml) $(wildcard libs/*/src/*/*.c) $(wildcard services/*/pyproject.toml)
	@tools/prepare.sh environment
	@touch $@

.PHONY: demo
demo: setup ## Start a private stack, run the example programs on it, stop it
	@$(BIN)/python examples/demo.py

.PHONY: test
test: setup ## Run all tests
	@tools/prepare.sh postgresql
	@tools/prepare.sh prometheus
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: unit
unit: .venv/.ready ## Run the tests that need no server
	$(PYTEST) libs client services

.PHONY: chaos
chaos: setup ## Kill executors, workers and RabbitMQ 200 times under 20,000 tasks
	QONDUIT_CHAOS=full $(PYTEST) tests/chaos

.PHONY: e2e
e2e: .venv/.ready ## Run the tests in real containers: images, compose, restarts (needs root or a Docker Engine)
	@tools/prepare.sh containers
	$(PYTEST) tests/e2e --timeout 1800

.PHONY: secrets
secrets: ## Make deploy/secrets: passwords, keys, a token, a private CA (NAMES="host names" of the gateway)
	@deploy/make_secrets.sh $(NAMES)

.PHONY: isolated
isolated: .venv/.ready ## Run each service's unit tests with only its declared dependencies
	@tools/test_isolated.sh

.PHONY: check
check: .venv/.ready ## Lint, types, import contracts, protos, dashboards
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	tools/check_types.sh
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint
	tools/check_breaking.sh
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/generate_protos.py --check
	PYTHONPATH=tools $(BIN)/python -m dashboards check

.PHONY: format
format: .venv/.ready ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: protos
protos: .venv/.ready ## Make the Python code of the .proto files
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/generate_protos.py

.PHONY: dashboards
dashboards: setup ## Make the dashboards, the page of metrics, and pictures of a stack that works
	@tools/prepare.sh prometheus
	PYTHONPATH=tools $(BIN)/python -m dashboards write
	PYTHONPATH=tools:tests $(BIN)/python -m dashboards draw

.PHONY: constraints
constraints: .venv/.ready ## Choose the newest allowed versions again and write constraints.txt
	tools/write_constraints.sh

.PHONY: bench
bench: setup ## Run the benchmarks, tasks also beside other systems (an hour or two)
	@tools/prepare.sh peers
	$(BIN)/python bench/job_latency.py
	$(BIN)/python bench/qpu.py
	$(BIN)/python bench/storage.py
	$(BIN)/python bench/files.py
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/rest.py
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/tasks.py --write

.PHONY: simulate
simulate: .venv/.ready ## Simulate the scheduler beside known policies (TRACE=folder of the recorded trace)
	$(BIN)/python bench/simulate.py $(if $(TRACE),--trace $(TRACE))

.PHONY: clean
clean: ## Remove what the other chores made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
