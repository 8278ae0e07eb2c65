# The first target is the one to begin with: `make` alone runs the example.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
# Tests that run side by side: most of them wait.
WORKERS ?= $(shell expr $$(nproc) \* 3 / 2)
PYTEST = $(VENV)/bin/python -m pytest tests

run: ## the example, in Docker where an engine answers: make run PORT=8081
	@PORT=$(PORT) exec tests/run.sh

test: $(VENV)/ready ## all tests but those in Docker: make test ARGS='-k name'
	$(PYTEST) -m 'not docker and not chaos and not engines' -n $(WORKERS) $(ARGS)

check: lint proofs docker ## what must hold before a change lands, beyond `make test`: lint, types, proofs, the tests in Docker

# The short forms of those proofs below that are none of the tests.
proofs: $(VENV)/ready
	$(VENV)/bin/python tests/sim.py --events 1000000
	$(VENV)/bin/python tests/worlds.py --units 2 --plain
	$(VENV)/bin/python tests/mutants.py --sample 150
	$(PYTEST) -m chaos

# The proofs in full.

sim: $(VENV)/ready ## a million events in random worlds, with all that must hold looked at after each: make sim ARGS='--seed 7'
	$(VENV)/bin/python tests/sim.py --events 1000000 $(ARGS)

worlds: $(VENV)/ready ## every state of every configuration of up to three units, hours: make worlds ARGS='--units 2'
	$(VENV)/bin/python tests/worlds.py $(ARGS)

mutants: $(VENV)/ready ## the state machine, and what decides in the fleet, broken in every way, one at a time: who notices
	$(VENV)/bin/python tests/mutants.py $(ARGS)

chaos: $(VENV)/ready ## ten minutes of all that a container can do to PID 1 (as root)
	$(VENV)/bin/python tests/chaos.py --minutes 10 $(ARGS)

fuzz: $(VENV)/ready ## two minutes of random configurations, requests, answers, arguments, HTTP, and other supervisors' files
	$(VENV)/bin/python tests/fuzz.py --seconds 120 $(ARGS)

soak: $(VENV)/ready ## 100,000 restarts, a million orphans, 1,000 hand-overs and reloads, 10,000 requests, in one process (as root)
	$(VENV)/bin/python tests/soak.py $(ARGS)

coverage: $(VENV)/ready ## lines and branches of overlord.py that all tests together reach
	$(VENV)/bin/python tests/cover.py -m 'not docker and not chaos and not engines' -n $(WORKERS) $(ARGS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check --config tests/ruff.toml .
	$(VENV)/bin/ruff check --config tests/ruff.toml --line-length 120 overlord.py
	$(VENV)/bin/mypy --config-file tests/mypy.ini overlord.py tests/convert.py

# What Docker lacks here, the tests say themselves: each is then skipped with the reason, which CI counts as failed.
docker: $(VENV)/ready
	$(PYTEST) -m docker -n auto --dist loadfile $(ARGS)

# Other Pythons, C libraries and shells: what is not sure to be on a machine. None is in CI, whose time would not do.

REAL = -m 'real and not docker and not chaos and not engines' -n $(WORKERS)
PYTHONS ?= 3.14

pythons: $(VENV)/ready ## the real program on Debian's next Python, its warnings being errors: make pythons PYTHONS='3.8 3.15'
	tests/docker-base.sh sid || test $$? = 75
	@for version in $(PYTHONS); do \
		case $$version in 3.14|3.15) tests/sid.sh $$version || exit ;; esac; \
		OVERLORD_PYTHON=$$version OVERLORD_STRICT=1 $(PYTEST) $(REAL) $(ARGS) || exit; \
	done
	$(VENV)/bin/python -m pytest 'tests/test_places.py::test_image[sid]' 'tests/test_places.py::test_image_with_all[sid]'

musl: $(VENV)/ready ## the real program on musl, as Alpine has it, beside busybox; builds CPython first
	tests/musl.sh
	OVERLORD_PYTHON=musl $(PYTEST) $(REAL) $(ARGS)
	$(VENV)/bin/python -m pytest 'tests/test_places.py::test_image[musl]' 'tests/test_places.py::test_image_with_all[musl]'

shells: $(VENV)/ready ## the real program where /bin/sh is bash, and where it is busybox (as root)
	@for shell in "$$(command -v bash)" "$$(DOCKER_SETUP=1 tests/busybox.sh --plain)"; do \
		echo "/bin/sh is $$shell"; \
		unshare --mount sh -c 'mount --bind "$$0" /bin/sh && exec "$$@"' "$$shell" $(PYTEST) $(REAL) $(ARGS) || exit; \
	done

engines: $(VENV)/ready ## Docker Swarm, podman with and without root, Kubernetes' files, docker-compose: make engines ARGS='-k swarm'
	$(PYTEST) -m engines $(ARGS)

# Peers that are missing are named and left out: those from Debian (gcc libc6-dev tini dumb-init catatonit s6 runit) as well
# as those from PyPI, which the first two lines install.
bench: ## costs beside those of what one would pick instead, for the README's tables: about half an hour (as root)
	@$(PYTHON) -m venv $(VENV)/peers
	-@$(VENV)/peers/bin/pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	@for name in peers output events; do \
		$(PYTHON) tests/bench/$$name.py --peers-python $(VENV)/peers/bin/python --save tests/bench/figures.json $(ARGS) || exit; \
	done
	$(PYTHON) tests/readme.py

$(VENV)/ready: tests/requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo 'make: this Python makes no virtual environment; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

convert: ## a file of supervisord or circus, or a Procfile, as one for overlord: make convert FROM=supervisord.conf
	@$(PYTHON) tests/convert.py "$(FROM)"

clean: ## remove what the targets above left in this folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

.PHONY: run test check lint proofs docker engines pythons musl shells bench sim worlds mutants chaos fuzz soak coverage convert clean help
