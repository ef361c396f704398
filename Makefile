# Everything installs into .venv by itself: nothing needs to be typed before any of these. `make run` installs what
# it needs, all others the tools of the tests too, which takes longer.
# `make` alone lists the targets. PYTHON=… chooses another interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNNABLE := $(VENV)/.runnable
INSTALLED := $(VENV)/.installed
MANIFESTS := pyproject.toml agent/pyproject.toml constraints.txt
TEST_PACKAGES := $(VENV)/.debian-packages
WORKERS ?= 4

# Workers, and the hundreds of processes that the tests start, read compiled modules instead of compiling each anew.
unexport PYTHONDONTWRITEBYTECODE

# The tests write and sync a great many small files: in memory, where there is a gigabyte of it to run programs from.
IN_MEMORY = $(shell awk '$$2 == "/dev/shm" && $$4 ~ /^rw/ && $$4 !~ /noexec/ {print $$2; exit}' /proc/mounts 2>/dev/null)
ROOMY = $(if $(IN_MEMORY),$(shell df -Pk $(IN_MEMORY) | awk 'NR == 2 && $$4 > 1000000 {print "yes"}'))

# The pure rooms: no line and no branch of them goes untested.
PURE := documents trust decide plan lifecycle view
PURE_TESTS = tests/unit/documents tests/unit/trust tests/unit/decide tests/unit/lifecycle tests/unit/view \
	$(wildcard tests/attacks/test_trust_*.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check lint types imports generated purity bench mutants soak docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNNABLE) ## The main job, live: a key rotation requested, approved, executed once, proved; then the dashboard
	@test -x /usr/sbin/sshd || .ci/debian-packages openssh-server || true # the demo says so where it is missing
	@$(BIN)/capsule demo

test: $(INSTALLED) $(TEST_PACKAGES) ## Run all tests
	$(if $(ROOMY),PYTEST_DEBUG_TEMPROOT=$(IN_MEMORY)) $(BIN)/pytest -m "not soak" -n $(WORKERS) --dist loadscope --no-loadscope-reorder -q

check: lint types imports generated purity ## Style, types, layers, generated files, complete coverage of the pure rooms

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

generated: $(INSTALLED)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/commands.py --check

purity: $(INSTALLED)
	$(BIN)/pytest $(PURE_TESTS) -n $(WORKERS) -q --cov-branch --cov-fail-under=100 \
		--cov-report=term-missing:skip-covered $(PURE:%=--cov=capsule.%)

bench: $(INSTALLED) ## Measure passes, commits and pages at size
	$(BIN)/python -m bench

mutants: $(INSTALLED) $(TEST_PACKAGES) ## Weaken every check of trust and agents in turn: some test must fail (an hour)
	$(BIN)/python -m bench.mutants

soak: $(INSTALLED) $(TEST_PACKAGES) ## Run the long tests
	$(BIN)/pytest -m soak --timeout 0 -q

docs: $(INSTALLED) ## Write the generated part of docs/ anew: schemas and references
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/commands.py

clean: ## Remove .venv and everything that tools left behind
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# install EXTRA: both packages, editable, with what the extra names.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Capsule needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/debian-packages python3-venv
@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	|| { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
@echo "installing into $(VENV) (once; a few minutes)"
@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt hatchling editables
@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ./agent -e '.[$(1)]'
endef

$(RUNNABLE): $(MANIFESTS)
	$(call install,demo)
	@touch $@

$(INSTALLED): $(MANIFESTS)
	$(call install,dev)
	@touch $(RUNNABLE) $@

$(TEST_PACKAGES): $(INSTALLED) .ci/debian-packages
	@.ci/debian-packages openssh-server chromium
	@touch $@
