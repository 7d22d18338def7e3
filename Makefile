# Targets set up what they need; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE ?= sim
UP_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
IMAGES_ARGS ?=
STAMP := $(VENV)/.installed
BENCH_STAMP := .venv-bench/.installed
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	--no-annotate --python-version 3.11

.PHONY: help setup up images cluster cluster-node test test-all test-cluster test-compiled test-long test-traces test-vllm check format generate lock bench vllm clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## Virtual environment with the project and its command, .venv/bin/penstock

$(STAMP): requirements.lock tests/envoy.lock pyproject.toml tools/setup.sh tools/compile_hotpath.py
	PYTHON="$(PYTHON)" bash tools/setup.sh "$(VENV)"
	@touch $@

up: setup ## A local fleet that answers OpenAI requests (ENGINE=sim|vllm, UP_ARGS="--workers 4"); Ctrl-C stops it
	@if [ "$(ENGINE)" = vllm ]; then $(BIN)/python -m workers.vllm.install; fi
	@exec $(BIN)/penstock up --engine "$(ENGINE)" $(UP_ARGS)

test: setup ## The tests, the chart on real nodes among them (without the longest, most of test-cluster, vLLM engines and whole traces)
	-@$(BIN)/python -m tests.cluster build
	-@$(BIN)/python -m tests.cluster install
	$(BIN)/python -m pytest -m "not vllm and not traces and not long and (core or not cluster)" $(PYTEST_ARGS)

test-long: setup ## The longest: an hour's renewals without the API server, 250 deployments, what the images hold, their build where buildah is (18 minutes)
	-@$(BIN)/python -m tests.cluster build
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

cluster: setup ## The programs of Kubernetes for the tests, built once with Go (KUBEBUILDER_ASSETS takes others)
	$(BIN)/python -m tests.cluster build

cluster-node: setup ## What real nodes need beside them: containerd and what belongs to it, from Debian, as root
	$(BIN)/python -m tests.cluster install

test-cluster: setup ## The chart on real nodes: every component a Pod (root, containerd; says why where it cannot be)
	-@$(BIN)/python -m tests.cluster build
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

test-traces: setup ## Mooncake's trace on 8 workers and 2 gateways, with kills (3 minutes, PENSTOCK_TRACES=folder)
	$(BIN)/python -m pytest -m traces -s $(PYTEST_ARGS)

test-all: test test-cluster test-long ## What runs here without traces and vLLM engines: tests, real nodes, the longest (55 minutes)

test-compiled: setup ## The gateway's tests on its compiled hot path (needs a C compiler)
	$(BIN)/python tools/compile_hotpath.py --strict
	PENSTOCK_TEST_COMPILED=1 $(BIN)/python -m pytest tests/unit/router tests/property/router tests/integration/router $(PYTEST_ARGS)

images: ## The images of the chart, by docker, podman or buildah (IMAGES_ARGS="--registry registry.example.com/ai --push")
	$(PYTHON) tools/images.py $(IMAGES_ARGS)

vllm: setup ## A vLLM engine for CPU in .venv-vllm (6.5 GB)
	$(BIN)/python -m workers.vllm.install

test-vllm: vllm ## The tests on real vLLM engines
	$(BIN)/python -m pytest -m vllm $(PYTEST_ARGS)

check: setup ## Format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protogen.py --check
	$(BIN)/python tools/configdoc.py --check
	$(BIN)/python tools/fitdoc.py --check
	$(BIN)/python tools/crdgen.py --check
	$(BIN)/python tools/chartgen.py --check
	$(BIN)/python tools/lockcheck.py

format: setup ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup ## Writes the generated files (protos, configuration reference, custom resources, chart, manifests)
	$(BIN)/python tools/protogen.py
	$(BIN)/python tools/configdoc.py
	$(BIN)/python tools/fitdoc.py
	$(BIN)/python tools/crdgen.py
	$(BIN)/python tools/chartgen.py

lock: setup ## Resolves the dependencies anew into requirements.lock, the benchmark's and the images'
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml --extra all --group dev -o requirements.lock
	$(COMPILE) tests/envoy.in -o tests/envoy.lock
	$(COMPILE) benchmarks/gateway/requirements.in -o benchmarks/gateway/requirements.lock
	$(COMPILE) pyproject.toml --extra router -c requirements.lock -o images/gateway.lock
	$(COMPILE) pyproject.toml --extra router --extra workers --extra operators -c requirements.lock -o images/controller.lock
	$(COMPILE) pyproject.toml --extra operators -c requirements.lock -o images/operator.lock
	$(COMPILE) pyproject.toml --extra power -c requirements.lock -o images/node-agent.lock
	$(COMPILE) pyproject.toml --extra workers --extra download -c requirements.lock -o images/worker-sim.lock
	$(COMPILE) images/hotpath.in -c requirements.lock -o images/hotpath.lock
	$(COMPILE) images/lint.in -o images/lint.lock

bench: setup $(BENCH_STAMP) ## The gateway's CPU time per request, beside sglang-router
	$(BIN)/python tools/compile_hotpath.py
	$(BIN)/python -m benchmarks.gateway $(BENCH_ARGS)

$(BENCH_STAMP): benchmarks/gateway/requirements.lock
	test -x .venv-bench/bin/pip || $(BIN)/python -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

clean: ## Removes what the other targets made
	rm -rf $(VENV) .venv-vllm .venv-bench build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
