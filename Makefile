# Needs only make, sh and Python 3.11 or newer. Everything is installed into private
# environments in this folder: .venv for development, .venv-run for `make run`.
# Another interpreter: make PYTHON=/path/to/python3.12 test
.POSIX:

RUN = .venv-run
DEV = .venv
SECONDS = 60
BIN = $(DEV)/bin

RUFF_CHECK = $(BIN)/ruff check
RUFF_FORMAT = $(BIN)/ruff format --check
LAYERS = $(BIN)/lint-imports
# The wrapper would otherwise ask a registry whether a newer pyright exists.
PYRIGHT = PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
PYTEST = $(BIN)/python -m pytest
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --only-binary :all: \
	--python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links $(ARGS)

# Names a step, runs it, and stops everything in words when it fails.
STEP = step() { \
		name=$$1; shift; printf '\n== %s\n' "$$name"; \
		"$$@" || { printf '\nmake: FAILED at: %s\n' "$$name" >&2; exit 1; }; \
	}

help:
	@echo 'make run     start howk here              (ARGS="--help" shows its options)'
	@echo 'make test    every check, as CI runs them (lint, types, all tests)'
	@echo 'make unit    the tests that start no processes (ARGS="-k name" chooses)'
	@echo 'make fuzz    fuzz answers and enqueues     (SECONDS=600 each; a minute if not said)'
	@echo 'make simulate  the rooms under every fault (SEEDS=5000, FROM=17)'
	@echo 'make lint    ruff check, ruff format --check, import rules'
	@echo 'make format  let ruff fix and format'
	@echo 'make types   pyright'
	@echo 'make docs    write the reference pages and the example files anew'
	@echo 'make bench   benchmarks                   (ARGS="--help" lists them)'
	@echo 'make lock    remake requirements/*.txt    (ARGS=--upgrade moves the versions)'
	@echo 'make dist    wheel and sdist into dist/'
	@echo 'make clean   remove environments, caches and dist/; data is kept'

run: $(RUN)/.ready
	@exec $(RUN)/bin/howk up --receiver $(ARGS)

test: $(DEV)/.ready
	@$(STEP); \
	step 'ruff check' $(RUFF_CHECK); \
	step 'ruff format --check (make format repairs it)' $(RUFF_FORMAT); \
	step 'import rules' $(LAYERS); \
	step 'types' env $(PYRIGHT); \
	step 'tests' $(PYTEST) $(ARGS); \
	printf '\nmake test: all checks passed\n'

lint: $(DEV)/.ready
	@$(STEP); \
	step 'ruff check' $(RUFF_CHECK); \
	step 'ruff format --check (make format repairs it)' $(RUFF_FORMAT); \
	step 'import rules' $(LAYERS)

format: $(DEV)/.ready
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format

types: $(DEV)/.ready
	@$(PYRIGHT)

unit: $(DEV)/.ready
	@$(PYTEST) -m 'not e2e' $(ARGS)

# A failure is shrunk, and told with the seed that replays it: HOWK_FUZZ_SEED=n make fuzz
fuzz: $(DEV)/.ready
	@HOWK_FUZZ_SECONDS='$(SECONDS)' $(PYTEST) tests/fuzz $(ARGS)

SEEDS = 1000
FROM =

simulate: $(DEV)/.ready
	@if [ -n '$(FROM)' ]; then set -- --from '$(FROM)'; fi; \
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) "$$@" $(ARGS)

bench: $(DEV)/.ready
	@$(BIN)/python -m bench $(ARGS)

docs: $(DEV)/.ready
	@$(BIN)/python -m howk.runtime.settings_reference > docs/reference/settings.md
	@$(BIN)/python -m howk.cli.reference > docs/reference/commands.md
	@$(BIN)/python -m howk.runtime.settings_example yaml > config.example.yaml
	@$(BIN)/python -m howk.runtime.settings_example env > .env.example
	@$(BIN)/python -m tests.hostile.page

# dev.txt holds everything; the other two are cut from the same versions.
lock: $(DEV)/.ready
	@$(COMPILE) --group dev pyproject.toml --output-file requirements/dev.txt
	@$(COMPILE) --constraints requirements/dev.txt pyproject.toml --output-file requirements/run.txt
	@$(COMPILE) --constraints requirements/dev.txt --group build --output-file requirements/build.txt
	@echo 'make lock: requirements/ is remade'

dist: $(DEV)/.ready
	@$(BIN)/python -m hatchling build

clean:
	rm -rf $(DEV) $(RUN) dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEV)/.ready: requirements/dev.txt requirements/build.txt requirements/environment.sh pyproject.toml
	@PYTHON='$(PYTHON)' sh requirements/environment.sh $(DEV) requirements/dev.txt

$(RUN)/.ready: requirements/run.txt requirements/build.txt requirements/environment.sh pyproject.toml
	@PYTHON='$(PYTHON)' sh requirements/environment.sh $(RUN) requirements/run.txt

.PHONY: help run test lint format types unit simulate docs fuzz bench lock dist clean
