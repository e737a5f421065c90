# make demo · make test · make check · make bench, and the long runs: each sets up what it needs by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench workers logs lines orphans chaos operations systemd format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@$(BIN)/python -P examples/crew/demo.py $(if $(REPO),--repo "$(REPO)") $(if $(KEEP),--keep)

test: $(VENV)/.test
	$(BIN)/python -P -m pytest -q -n 3 --dist loadscope $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(VENV)/.test
	$(BIN)/python -P benchmarks/start.py $(ARGS)

# The long runs; each has a short form in the tests.  docs/HACKING.md says what they show.
workers: $(VENV)/.test
	$(BIN)/python -P benchmarks/workers.py $(ARGS)

logs: $(VENV)/.test
	$(BIN)/python -P benchmarks/logs.py $(ARGS)

lines: $(VENV)/.test
	$(BIN)/python -P tests/chaos/lines.py $(ARGS)

orphans: $(VENV)/.test
	$(BIN)/python -P tests/chaos/orphans.py $(ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -P tests/chaos/chaos.py $(ARGS)

operations: $(VENV)/.test
	CORRAL_OPERATIONS=1000 $(BIN)/python -P -m pytest -q -s tests/system/test_operations.py $(ARGS)

systemd: $(VENV)/.test
	CORRAL_KILLS=50 $(BIN)/python -P -m pytest -q tests/system/test_systemd.py $(ARGS)

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
