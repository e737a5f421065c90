# make demo · make test · make check · make bench: each sets up what it needs by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@$(BIN)/python -P examples/crew/demo.py $(if $(REPO),--repo "$(REPO)") $(if $(KEEP),--keep)

test: $(VENV)/.test
	$(BIN)/python -P -m pytest -q $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(VENV)/.test
	$(BIN)/python -P benchmarks/start.py $(ARGS)

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build .demo

# One stamp per set of extras; a newer pyproject.toml installs again.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || { echo "setting up $(VENV) (once)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
