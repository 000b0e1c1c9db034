# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/digits-maskconnect

.PHONY: demo test test-slow lint format types tables docs check clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,tensorboard]'
	touch $@

demo: $(VENV)/.installed
	@rm -rf $(DEMO_OUT)
	$(BIN)/topolearn fit digits --learner maskconnect --out $(DEMO_OUT)
	@echo
	@echo "The same with the other learners:"
	@echo "  $(BIN)/topolearn fit digits --learner continuous"
	@echo "  $(BIN)/topolearn fit digits --learner sparsemask"

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal --slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Whether the tables of README.md, models/ and docs/ are what results/ say; `python -m benchmarks.tables` writes them.
tables: $(VENV)/.installed
	$(BIN)/python -m benchmarks.tables --check

# The site, in build/site. Any warning fails, a broken link between pages included.
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -b html . build/site

check: lint types tables docs test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
