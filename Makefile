# make up     servers and the whole plane of specs/ on this machine
# make test   everything that decides whether a change is good
# make help   the other targets

ENV ?= dev
SPECS ?= specs
JOBS ?= 2
# A test that only ran out of time, as on a machine that others keep busy, is run once more, and the report says so.
PYTEST := --numprocesses $(JOBS) --dist worksteal --reruns 1 --only-rerun '^TimeoutE'

# The first Python of 3.11 or newer; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.stamp
LOCK := requirements.lock
UV := uv==0.13.9
HOLDFAST := $(BIN)/holdfast --specs $(SPECS) --env $(ENV)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes, and each would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv up pulumi down reset test lint format generate soak lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv with what the lock file pins

$(STAMP): $(LOCK) pyproject.toml runtime/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . --editable runtime
	@touch $@

up: $(STAMP) ## start PostgreSQL and NATS here and bring the plane of SPECS into place
	$(HOLDFAST) dev up
	$(HOLDFAST) check
	$(HOLDFAST) apply --yes
	$(HOLDFAST) status

pulumi: $(STAMP) ## build the Pulumi CLI and its language hosts once; the last line is the folder to put on PATH
	@$(BIN)/python tools/build.py pulumi

down: $(STAMP) ## stop the servers, keep their data
	$(HOLDFAST) dev down

reset: $(STAMP) ## stop the servers and delete their data
	$(HOLDFAST) dev reset --yes

lint: $(STAMP) ## style, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cd runtime && $(abspath $(BIN))/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

generate: $(STAMP) ## make the generated files anew: JSON Schemas, pages of rules and kinds
	$(BIN)/holdfast schema > holdfast.schema.json
	$(BIN)/holdfast schema --environment > holdfast.environment.schema.json
	$(BIN)/python -m provision.checks.pages --write docs/rules
	$(BIN)/python -m provision.migrate.lint.pages --write docs/rules/migrations
	$(BIN)/python -m provision.reference docs/reference
	cp provision/pools/contract.schema.json runtime/holdfast/contract.schema.json
	@mkdir -p build
	$(BIN)/python -m provision.pulumi.schema > build/schema.json && mv build/schema.json provision/pulumi/schema.json
	$(BIN)/python -m provision.pulumi.classes
	$(BIN)/python -m provision.pulumi.page docs/reference/pulumi

test: lint ## lint, then every behaviour on real servers; also writes build/junit.xml
	@mkdir -p build
	@$(BIN)/python tools/build.py pulumi > /dev/null
	@$(BIN)/python tools/build.py schemas > /dev/null
	$(BIN)/python -m pytest $(PYTEST) --junit-xml build/junit.xml
	cd runtime && $(abspath $(BIN))/python -m pytest $(PYTEST) --junit-xml ../build/junit-runtime.xml

soak: $(STAMP) ## what takes long: server versions, crashes, benchmarks
	@mkdir -p build
	$(BIN)/python -m pytest -m soak --timeout 3600 --junit-xml build/junit-soak.xml
	cd runtime && $(abspath $(BIN))/python -m pytest -m soak --timeout 3600 --junit-xml ../build/junit-runtime-soak.xml
	$(BIN)/python bench/plan.py
	$(BIN)/python bench/partitions.py
	$(BIN)/python bench/migrate.py
	$(BIN)/python bench/pulumi.py
	$(BIN)/python bench/runtime.py

lock: ## resolve pyproject.toml anew into the lock file, for every platform and Python >= 3.11
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet $(UV)
	UV_CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/uv pip compile pyproject.toml --quiet --universal --upgrade \
		--python-version 3.11 --extra embedded --extra pulumi --extra kubernetes --group dev --generate-hashes --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file $(LOCK)

clean: ## delete everything that make made, the local servers' data included
	test ! -x $(BIN)/holdfast || $(HOLDFAST) dev reset --yes
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
