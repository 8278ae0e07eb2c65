# The first target is the one to begin with: `make` alone runs the example.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
PYTEST = $(VENV)/bin/python -m pytest tests

run: ## the example, in Docker where an engine answers: make run PORT=8081
	@PORT=$(PORT) exec tests/run.sh

test: $(VENV)/ready ## all tests but those in Docker: make test ARGS='-k name'
	$(PYTEST) -m 'not docker' -n auto $(ARGS)

check: lint docker ## what must hold before a change lands, beyond `make test`: lint, types, the tests in Docker

lint: $(VENV)/ready
	$(VENV)/bin/ruff check --config tests/ruff.toml .
	$(VENV)/bin/mypy --config-file tests/mypy.ini overlord.py

# What Docker lacks here, the tests say themselves: each is then skipped with the reason, which CI counts as failed.
docker: $(VENV)/ready
	$(PYTEST) -m docker $(ARGS)

bench: ## costs: start, idle, restart, captured output; beside the bare interpreter, and those peers that are there
	@for script in tests/bench/*.py; do $(PYTHON) "$$script" || exit; done

$(VENV)/ready: tests/requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo 'make: this Python makes no virtual environment; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean: ## remove what the targets above left in this folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

.PHONY: run test check lint docker bench clean help
