# `make demo` and `make test` do all the set-up themselves. Needed: make, Python 3.11 or later with venv, pip.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/demo

.PHONY: help demo test lint types docs browser clean

help:
	@echo "make demo   score, check and report on the shipped models (report in $(OUT))"
	@echo "make test   lint, types, tests, doctests, and the wheel in an environment of its own"
	@echo "make docs   the documentation, in site/; it opens from disk and loads nothing from the network"
	@echo "make clean  remove what these leave behind, .venv included; runs/ stays"

demo: $(VENV)/.installed
	$(BIN)/headscope demo --out $(OUT)

# Most tests share the cores, a file a process; those that start processes or a browser of their own come after them.
test: export HF_HUB_OFFLINE := 1
test: lint types browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

docs: export HF_HUB_OFFLINE := 1
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# The browser tests drive Debian's Chromium. Where it is not here and cannot be installed they are skipped, and say so.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && echo "installing Chromium for the browser tests" && apt-get -qq update \
	  && apt-get -qq install --yes --no-install-recommends chromium >/dev/null; } \
	  || echo "Chromium is not here and cannot be installed: the browser tests will be skipped."

clean:
	rm -rf $(VENV) build dist site headscope.egg-info .pytest_cache .ruff_cache .hypothesis

# The stamps say when the environment last followed these two files, so that a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

$(VENV)/.created:
	@for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if [ -n "$$python" ] && "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; exec sh -c '"$$0" -m venv $(VENV) && touch $@' "$$python"; \
	  fi; \
	done; \
	echo "No Python 3.11 or later was found; name one: make PYTHON=/path/to/python" >&2; exit 1
