# The commands of this repository; `make` lists them. Two cores are assumed: CARGO_BUILD_JOBS=n changes that.
export CARGO_BUILD_JOBS ?= 2
DEMO_ARGS ?=
BENCH_ARGS ?=
SEEDS ?= 10000
FROM ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests setup-k8s build check test test-k8s crds simulate demo bench bench-fs bench-controller bench-gateway clean

help: ## Lists these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: ## Installs what building and the demo need and this machine lacks
	@scripts/setup.sh

setup-tests: ## Installs what the tests need besides (a real S3 server, ClickHouse clients)
	@scripts/setup.sh --tests

setup-k8s: ## Builds Kubernetes' control plane and Helm for the tests, if Go is there
	@scripts/setup.sh --k8s

build: ## Builds every binary
	cargo build --workspace --bins

check: ## Formatting, lints and documentation, warnings being errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --workspace --no-deps --document-private-items --quiet

test: setup-tests build ## Runs every test, with real etcd, S3 and ClickHouse
	cargo test --workspace

test-k8s: setup-k8s build ## Runs the operator's tests against a real Kubernetes control plane (part of `make test`)
	cargo test -p moorhouse-operator --test k8s

crds: ## Writes the chart's definitions of resources anew
	cargo run -p moorhouse-operator --bin moorhouse-operator -- crds charts/moorhouse/crds

simulate: ## Runs SEEDS=n simulations of the metadata plane, from seed FROM=n
	cargo run --release -p moorhouse-simulation --bin moorhouse-simulate -- --seeds $(SEEDS) --from $(FROM)

bench-gateway: setup ## What the gateway costs, into target/bench/gateway.json; QUICK=1 only shows that it works
	cargo build --workspace --bins --release
	cargo bench -p moorhouse-gateway --bench gateway

demo: setup build ## Runs the whole system on TPC-H; KEEP=1 leaves it running
	target/debug/moorhouse-demo $(if $(KEEP),--keep) $(DEMO_ARGS)

bench: bench-fs bench-controller ## Measures everything

bench-fs: setup-tests ## Measures the shard file system; writes target/bench/fs.json (BENCH_ARGS=--quick: a smoke run)
	cargo build --release --bins
	target/release/moorhouse-bench fs $(BENCH_ARGS)

bench-controller: setup-tests ## Measures the controller on etcd; writes target/bench/controller.json (BENCH_ARGS=--quick: a smoke run)
	cargo build --release -p moorhouse-controller -p moorhouse-bench
	target/release/moorhouse-bench controller $(BENCH_ARGS)

clean: ## Removes what was built
	cargo clean
