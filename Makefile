# Every word here works from a fresh clone: what it needs is installed into .venv first.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
BENCH := .bench/bench.pcap
PEERS := .bench/peers
HELM_VERSION := v4.3.1
HELM := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodetap/helm-$(HELM_VERSION)

# Tests start thousands of processes: each would compile all of our modules anew, 0.3 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install up test faults-full soak image-test lint format bench bench-scale bench-pcap fidelity fuzz fuzz-parsers api-check docs helm lock lock-peers clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything, versions and hashes from constraints.txt

$(STAMP): constraints.txt pyproject.toml setup.py $(wildcard */kernel/*.[ch])
	@test -n "$(PYTHON)" || { echo "nodetap needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: $(STAMP) ## hub and agent on this machine (READ="file.pcap ..." or INTERFACE="eth0 ...")
	@$(BIN)/nodetap up $(foreach f,$(READ),--read '$(f)') $(foreach i,$(INTERFACE),--interface '$(i)') $(ARGS)

# They measure how fast the machine does something, or fill it.
ALONE := $(addprefix tests/,faults/test_herd.py faults/test_slow_hub.py \
	$(addprefix live/,test_ring.py test_ring_others.py test_scapy_ring.py test_workers.py test_capture.py test_live_agent.py))
# Most of the time these wait.
WAITING := tests/faults tests/live $(wildcard tests/clickhouse/test_replicas*.py) tests/k8s/test_k8s_hub.py tests/hub/test_regions.py

test: $(STAMP) ## the tests; what needs root, tshark or the corpus is skipped where it is missing
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest --numprocesses $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder \
		$(addprefix --ignore ,$(WAITING))
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		$(WAITING) $(addprefix --ignore ,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)
endif

# One that fails stops neither the others nor the table; make fails all the same.
faults-full: $(STAMP) ## faults at full length, figures into docs/reliability.md (ARGS=tests/faults/test_lines.py)
ifdef ARGS
	@code=0; NODETAP_FAULTS=full $(BIN)/python -m pytest $(ARGS) || code=$$?; \
		$(BIN)/python tools/reliability.py && exit $$code
else
	@code=0; export NODETAP_FAULTS=full; $(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		tests/faults $(addprefix --ignore ,$(SOAK) $(filter tests/faults/%,$(ALONE))) || code=$$?; \
		$(BIN)/python -m pytest $(filter tests/faults/%,$(ALONE)) || code=$$?; \
		$(BIN)/python tools/reliability.py && exit $$code
endif

HOURS ?= 2
SOAK := tests/faults/test_soak.py

soak: $(STAMP) ## faults at random on twenty agents (HOURS=2); needs root
	@code=0; NODETAP_FAULTS=full NODETAP_SOAK_HOURS=$(HOURS) $(BIN)/python -m pytest -s $(SOAK) || code=$$?; \
		$(BIN)/python tools/reliability.py && exit $$code

SUITE ?= trixie

# 77: something is missing, and one line said what.
image-test: $(STAMP) ## build the images, run them as pods run; root, buildah and podman (SUITE=bookworm, ARGS="-k rights")
	@$(BIN)/python tools/images.py --suite $(SUITE) --sizes || { code=$$?; [ $$code = 77 ] && exit 0; exit $$code; }; \
		NODETAP_IMAGES=1 $(BIN)/python -m pytest tests/image $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) $(BENCH) $(PEERS)/.tried ## decode beside its peers, wire cost, end to end (quick: ARGS="--rounds 1")
	$(BIN)/python bench/run.py $(BENCH) $(ARGS)

bench-scale: $(STAMP) $(BENCH) ## a thousand agents, the cost of storing, 100 million packets (quick: ARGS="--quick --stage agents")
	$(BIN)/python bench/scale.py $(BENCH) $(ARGS)

bench-pcap: $(STAMP) ## the capture that bench reads: a million frames
	$(BIN)/python bench/make_pcap.py $(BENCH)

$(BENCH): bench/make_pcap.py | $(STAMP)
	$(BIN)/python bench/make_pcap.py $@

# What decode is compared with. NFStream has no wheel for every platform; the others are Python alone.
PEERS_INSTALL = $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes

$(PEERS)/.tried: bench/peers.txt | $(STAMP)
	rm -rf $(PEERS)
	$(PYTHON) -m venv $(PEERS)
	awk '/^[a-z]/ { keep = /^(dpkt|scapy)==/ } keep' bench/peers.txt >$(PEERS)/pure.txt
	@$(PEERS_INSTALL) -r bench/peers.txt || $(PEERS_INSTALL) -r $(PEERS)/pure.txt || \
		echo "bench: no peers installed; remove $(PEERS) to try again" >&2
	@touch $@

fidelity: $(STAMP) ## compare with tshark, cell by cell, over the corpus
	$(BIN)/python tools/fidelity.py $(ARGS)
	$(BIN)/python tools/flow_fidelity.py
	$(BIN)/python tools/softflowd_fidelity.py
	$(BIN)/python -m tools.l7_fidelity
	$(BIN)/python -m tools.filter_fidelity

FRAMES ?= 1000000

fuzz: $(STAMP) ## mutated frames through all of an agent (FRAMES=1000000, ARGS="--seed 42")
	$(BIN)/python tools/fuzz.py --frames $(FRAMES) $(ARGS)

fuzz-parsers: $(STAMP) ## the L7 parsers by coverage, with atheris (ARGS="dns --seconds 60")
	@test -x .bench/atheris/bin/python || $(PYTHON) -m venv .bench/atheris
	@.bench/atheris/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	PYTHONPATH="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		.bench/atheris/bin/python tools/fuzz_parsers.py $(ARGS)

api-check: $(STAMP) ## schemathesis against the API of a hub with data (ARGS="-n 100")
	@test -x .bench/schemathesis/bin/python || $(PYTHON) -m venv .bench/schemathesis
	@.bench/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check schemathesis==4.32.5
	$(BIN)/python tools/api_check.py $(ARGS)

docs: $(STAMP) ## write the reference pages from the schema and the programs
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/chart.py

helm: $(HELM) ## Helm for the tests of the chart, built once (needs Go)

$(HELM):
	mkdir -p $(@D)/build
	GOBIN=$(abspath $(@D)/build) CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' helm.sh/helm/v4/cmd/helm@$(HELM_VERSION)
	mv $(@D)/build/helm $@

lock: ## pin the newest versions that pyproject.toml allows (needs uv)
	echo setuptools | uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --no-annotate \
		--no-header --upgrade --output-file constraints.txt pyproject.toml -

lock-peers: ## pin the newest versions of what bench compares decode with (needs uv)
	printf 'dpkt\nnfstream\nscapy\n' | uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate \
		--no-header --upgrade --output-file bench/peers.txt -

clean: ## remove what the words above made, .venv too
	rm -rf .venv .bench build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info */kernel/*.so
