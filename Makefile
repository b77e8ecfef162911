# make optimize   installs, serves the embedded model, tunes a program on it, prints the table
# make test       installs what tests need and runs them
# make check      the inner loop: lint, the library's types (but for training on torch), the fast tests
# make lint, make types, make docs, make clean
# All of it lives in .venv and is kept between runs. uv is used where it is on the PATH. PYTHON=... picks the interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv)

ifeq ($(UV),)
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check
else
install = $(UV) pip install --quiet --python $(BIN)/python
endif

.PHONY: optimize test check lint types docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

optimize: $(VENV)/.use
	$(BIN)/python -m optimize.quickstart

test: $(VENV)/.tests
	$(BIN)/python -m pytest

# Types while the fast tests run. Reading torch, TRL and transformers is a third of pyright's work: files that import
# them are left to `make types`, and so are tests, scripts and examples.
TORCH := ^ *(import|from) (torch|trl|transformers|peft|accelerate)([ .]|$$)

check: $(VENV)/.tests $(VENV)/.typing lint
	@$(BIN)/pyright --pythonpath $(BIN)/python $$(grep -rLE --include='*.py' '$(TORCH)' pdr_dspy) & types=$$!; \
	$(BIN)/python -m pytest -p no:schemathesis -m "not slow and not model"; tests=$$?; wait $$types && exit $$tests

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.typing
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "pdr-dspy needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; name another one: make PYTHON=python3.11" % v)'
ifeq ($(UV),)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'  # the first with --group
else
	$(UV) venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV)
endif
	@touch $@

# One stamp for each purpose; a changed pyproject.toml installs again.
$(VENV)/.use: pyproject.toml | $(VENV)/.made
	@echo "Installing pdr-dspy with its embedded engine into $(VENV) ..."
	$(install) -e '.[embedded,data,code]'
	@touch $@

$(VENV)/.tests: pyproject.toml | $(VENV)/.made
	@echo "Installing what the tests need into $(VENV) ..."
	$(install) --group tests -e .
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/.made
	$(install) --group lint
	@touch $@

$(VENV)/.typing: pyproject.toml | $(VENV)/.made
	@echo "Installing what the type check needs into $(VENV) ..."
	$(install) --group typing -e .
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.made
	@echo "Installing what the documentation needs into $(VENV) ..."
	$(install) --group docs
	@touch $@
