# OpenCode functions. `make demo` shows it, `make test` checks it; both install what they need into the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
# Most of a test is waiting. A file stays on one worker: its stack is its own.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: install
install: ## everything, with ocf at .venv/bin/ocf
	@scripts/install.sh dev

.PHONY: install-run
install-run: ## only what it takes to run
	@scripts/install.sh run

.PHONY: demo
demo: install-run ## a real OpenCode task from submit to archive; KEEP=1 leaves the stack up
	@KEEP=$(KEEP) scripts/demo.sh

.PHONY: up
up: install-run ## the embedded stack, in the foreground
	@$(BIN)/ocf up

.PHONY: test
test: install ## the tests, without the slow ones
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not e2e" tests $(PYTEST_ARGS)
	cd console && ../scripts/npm.sh test --silent

.PHONY: test-all
test-all: install ## every test that needs no cluster
	$(BIN)/python -m pytest $(PARALLEL) -m "not cluster" tests $(PYTEST_ARGS)
	cd console && ../scripts/npm.sh test --silent

.PHONY: test-gateways
# Files that start a gateway or a stack; ONLY=FILES for some of them.
test-gateways: install ## the REST suite through two gateways behind one address
	OCF_TEST_GATEWAYS=2 $(BIN)/python -m pytest $(PARALLEL) -m "not cluster" $(PYTEST_ARGS) \
	  $(or $(ONLY),$(shell grep -lE 'gateway_server import|support.stack import' tests/integration/*.py tests/e2e/*.py))

.PHONY: check
check: install ## lint, format, types, import direction, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_house.py
	$(BIN)/python scripts/generate.py --check
	$(BIN)/python scripts/knative_generate.py --check
	scripts/kube_tools.sh
	$(BIN)/python scripts/knative_check.py
	$(BIN)/python scripts/chart.py --check
	$(BIN)/shellcheck -x -P SCRIPTDIR .ci/run scripts/*.sh $$(git ls-files 'tests/**/*.sh')
	cd console && ../scripts/npm.sh run --silent check

.PHONY: format
format: install ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: generate
generate: install ## schemas, AsyncAPI, OpenAPI, the generated parts of the docs, manifests, the chart
	$(BIN)/python scripts/generate.py
	$(BIN)/python scripts/knative_generate.py
	$(BIN)/python scripts/chart.py

.PHONY: wheel
wheel: install ## the distributions of server and Python client, in dist/
	rm -rf build clients/python/build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist ./clients/python .

.PHONY: lock outdated
lock: ## renew requirements/*.lock
	scripts/lock.sh
outdated: install ## what is behind: Python packages, the console's, the agent and the scripted model
	$(BIN)/python -m pip list --outdated --disable-pip-version-check
	@for folder in console functions/execute/npm; do \
	  echo "== $$folder"; (cd $$folder && "$(CURDIR)/scripts/npm.sh" outdated) || [[ $$? == 1 ]]; done

# Their own environment: what builds pages and bills of materials is needed by nothing else.
TOOLS := .tools/project
$(TOOLS)/.installed: requirements/tools.lock | install
	@$(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

.PHONY: docs sbom
docs: $(TOOLS)/.installed ## the documentation as a site with search, in build/site; a dead link or anchor fails
	@$(TOOLS)/bin/python scripts/docs_site.py $(DOCS_ARGS)
sbom: $(TOOLS)/.installed ## bills of materials (CycloneDX) of wheel and image, in dist/sbom
	@$(TOOLS)/bin/python scripts/sbom.py $(SBOM_ARGS)

.PHONY: bench
bench: install ## measure; prints and writes .bench/
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: screenshots
screenshots: install ## every screen of the console, light and dark, into test-results/screens; DOCS=1: docs/images too
	$(BIN)/python -m scripts.screenshots $(if $(DOCS),--docs)

.PHONY: faults soak
# SEED=n ONLY=victim:fault,... replays; QUARTER=1, CLUSTER=1 (three NATS servers), STOP=seconds of SIGSTOP.
faults: install ## break every part in every way under load (root, Linux; docs/reference/faults.md)
	$(BIN)/python -m faults $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) $(if $(QUARTER),--quarter) \
	  $(if $(CLUSTER),--cluster) $(if $(STOP),--stop $(STOP)) $(FAULTS_ARGS)
soak: install ## random faults for MINUTES=30, and then as it was before
	$(BIN)/python -m faults --soak $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(STOP),--stop $(STOP)) \
	  $(FAULTS_ARGS)

.PHONY: gitea
gitea: ## a real Gitea for tests/integration/test_gitea.py, built from its Go module (needs go; 10 CPU-minutes)
	@scripts/build_gitea.sh

.PHONY: cluster e2e cluster-down
cluster: install ## a real Kubernetes with Knative on this machine, and the system in it (tests/cluster; as root)
	tests/cluster/cluster.sh deps build up serving eventing broker
	tests/cluster/install.sh
e2e: install ## the tests against that cluster, or the one that KUBECONFIG names (ONLY=FILE)
	scripts/kube_tools.sh
	$(if $(KUBECONFIG),,tests/cluster/cluster.sh in) $(BIN)/python -m pytest $(or $(ONLY),tests/e2e) -m cluster $(PYTEST_ARGS)
cluster-down: ## stop it
	tests/cluster/cluster.sh down

.PHONY: clean
clean: ## remove everything that was installed or built here; the stack's data stays
	@if [[ -x $(BIN)/ocf ]]; then $(BIN)/ocf down; fi
	rm -rf .venv .tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .bench \
	  test-results *.egg-info console/node_modules console/dist clients/typescript/dist
	find events functions ocf tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
