.PHONY: help format lint types contract unit check test laws-avx512 laws-avx2 laws-neon
PYTHON ?= python

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## */  make \1\t/'

format: ## rewrite the files in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint: ## format and lint, changing nothing
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types: ## mypy, strict
	$(PYTHON) -m mypy

contract: ## imports point one way
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as run; run()"

unit: ## unit tests and laws, without the slow ones
	$(PYTHON) -m pytest -n 2 -m "not slow"

check: lint types contract unit ## everything a commit needs, in two to four minutes

test: ## all tests
	$(PYTHON) -m pytest -n 2

LAWS = $(PYTHON) -m pytest -n 2 tests/laws/test_compiled.py --target

laws-avx512: ## the compiled laws on a machine with AVX-512
	$(LAWS) avx512

laws-avx2: ## the compiled laws with AVX2, vectors of 8
	$(LAWS) avx2

laws-neon: ## the compiled laws cross-compiled for aarch64, NEON, under qemu-user
	$(LAWS) neon
