# Every target makes the virtual environment itself when it is not there or out of date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made
ARGS ?=

.PHONY: setup demo run test test-instances test-security test-integration test-container test-faults soak check bench clean help

help:
	@echo "make setup   the virtual environment and what the system lacks"
	@echo "make demo    a throw-away instance does a real job on a real repository"
	@echo "make run     an instance of your own in ./sfp-server, tenant 'dev'"
	@echo "make check   format, lint, types, import contracts, unit tests"
	@echo "make test    every test but those of containers and rarer faults (ARGS='-k name' for some)"
	@echo "make test-container   the tests of the container runtime, with a private Podman"
	@echo "make test-faults  every fault there is, the rarer ones too"
	@echo "make soak    10 minutes of random work under random faults (ARGS='--minutes 2 --seed 7')"
	@echo "make bench   the figures of the README, beside other queues (ARGS='--only queue' for some)"
	@echo "make clean   remove what can be made again (never ./sfp-server)"

setup: $(STAMP)

$(STAMP): requirements-dev.txt pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" sh scripts/setup.sh
	@touch $@

demo: $(STAMP)
	@$(BIN)/sfp-server demo $(ARGS)

run: $(STAMP)
	@test -e sfp-server/tenants/dev/config.json || $(BIN)/sfp-server init --tenant dev
	@$(BIN)/sfp-server start -t dev

# Three lanes at once: whole instances one after the other, attacks and rules, use cases. (5: nothing of ARGS is in this lane.)
PYTEST := $(BIN)/python -m pytest -m "not container and not faults"
test: $(STAMP)
ifneq (,$(findstring tests/,$(ARGS)))
	$(PYTEST) $(ARGS)
else
	@$(MAKE) --no-print-directory -j3 test-instances test-security test-integration
endif

test-instances: $(STAMP)
	$(PYTEST) tests/acceptance $(ARGS) || [ $$? -eq 5 ]

test-security: $(STAMP)
	$(PYTEST) tests/conformance tests/security tests/unit $(ARGS) || [ $$? -eq 5 ]

test-integration: $(STAMP)
	$(PYTEST) tests/integration $(ARGS) || [ $$? -eq 5 ]

test-container: $(STAMP)
	@sh scripts/podman.sh
	$(BIN)/python -m pytest -m container $(ARGS)

test-faults: $(STAMP)
	$(BIN)/python -m pytest tests/acceptance/test_fault_matrix.py tests/acceptance/test_remote_dispatcher.py $(ARGS)

soak: $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/soak.py $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit

bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements-bench.txt
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist test-results
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
