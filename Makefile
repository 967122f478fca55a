# The one entry point. `make help` lists the targets.
#
# There is one build profile (release) for run, test and CI, and the target directory lies outside
# the checkout, so that RocksDB's C++ is compiled once per machine.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mainstem/target
export BROKER_CLIENTS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mainstem/clients
BINARY := $(CARGO_TARGET_DIR)/release/mainstem
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help run cluster build test unit clients clients-install chaos chaos-log sim fuzz bench bench-log lint fmt print-binary

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

run: build ## build and run one node on 127.0.0.1, data in ./data
	@exec $(BINARY) serve --data-dir ./data $(ARGS)

cluster: build ## build and run three nodes (NODES) of one cluster on 127.0.0.1, data in ./data-cluster; Ctrl-C stops all
	@BROKER_BINARY=$(BINARY) exec ./scripts/cluster $(ARGS)

build: ## build the binary (the first time compiles RocksDB: 10 to 20 minutes)
	@./scripts/need-tools
	@$(CARGO) build --release --locked

print-binary: ## print the path of the binary that `make build` makes
	@echo $(BINARY)

test: unit clients ## everything that a change must pass

unit: ## unit, property and raw-socket tests
	@./scripts/need-tools
	@$(CARGO) build --release --locked
	@BROKER_BINARY=$(BINARY) $(CARGO) test --release --locked --workspace
	@$(CARGO) test --release --locked --workspace --features mainstem-log/planted-bugs --test log planted -- --nocapture
	@$(CARGO) test --release --locked --workspace --features mainstem-replication/rule-switches --test seal -- --nocapture

clients: build clients-install ## whole-binary tests with real clients
	@BROKER_BINARY=$(BINARY) ./scripts/client-tests

clients-install: ## install the clients that the tests use, in a private environment
	@./scripts/install-clients

chaos: build clients-install ## faults in a cluster under load, everything checked: CHAOS_FAULTS (100), BROKER_SEED (an hour)
	@BROKER_BINARY=$(BINARY) ./scripts/client-tests test_cluster_chaos.py -m chaos -s

chaos-log: build clients-install ## 200 rounds (BROKER_ROUNDS) of kill -9 under load, everything checked (long)
	@BROKER_BINARY=$(BINARY) ./scripts/client-tests test_chaos_log.py -m chaos -s

sim: ## metadata quorums under random faults, in virtual time: SEEDS (200) of them, with counts
	@BROKER_SEEDS=$(or $(SEEDS),200) $(CARGO) test --release --locked -p mainstem-simulation-cluster --test cluster proposals -- --nocapture

fuzz: ## hostile bytes for everything that reads the log's formats, FUZZ_SECONDS (60) for each target
	@FUZZ_FAILURES=$(CARGO_TARGET_DIR)/fuzz $(CARGO) run -q --release --locked -p mainstem-fuzz -- $(ARGS)

bench: build clients-install ## the figures of docs/first-light.md, beside Kafka and Mosquitto (long)
	@BROKER_BINARY=$(BINARY) ./scripts/bench

bench-log: ## the figures of docs/benchmarks-log.md: the log beside the disk by itself (12 minutes, 30 GB of disk)
	@$(CARGO) build --release --locked -p mainstem-log-bench
	@LOG_BENCH_DRIVER=$(CARGO_TARGET_DIR)/release/mainstem-log-bench ./scripts/bench-log

lint: ## rustfmt, clippy, licences and bans, dependency arrows
	@./scripts/need-tools
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	@./scripts/need-deny && $(CARGO) deny --log-level error check bans licenses sources
	@$(CARGO) test --release --locked -q -p mainstem-tests --test arrows

fmt: ## format everything
	@$(CARGO) fmt --all
