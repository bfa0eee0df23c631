.PHONY: setup build run clean-run demo test bench proof faults-db fuzz sim mutants iso iso-test deb iso-manifest test-iso help
DIR ?= .elpis-dev
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Plain words for each target: `make help`.
help:
	@echo "make setup  install what building and testing need (apt, cargo), make the shared target folder"
	@echo "make build  optimised build: target/release/elpis"
	@echo "make run    build, start a cluster of three nodes in .elpis-dev and keep it until Ctrl-C (DIR=folder)"
	@echo "make clean-run  stop such a cluster and delete its folder, and no other folder (DIR=folder)"
	@echo "make demo   build, kill nodes of such a cluster and prove that checks moved and none ran twice"
	@echo "make test   set up, then run every test: formatting, spelling, clippy, docs, unit, loopback"
	@echo "make bench  values and results stored in a second, memory, against their bars (9 min; ARGS=--help)"
	@echo "make proof  measures failover, moves, stalls, a third node and files against their bars (50 min; ARGS=--help)"
	@echo "make faults-db  faults of the nodes' own database, many times, against their bars (60 min; ARGS=--help)"
	@echo "make sim    20,000 seeds of the cluster simulator (SEEDS=20000)"
	@echo "make mutants  build with planted bugs; fails if 500 seeds do not catch each (ONLY=name for one)"
	@echo "make iso    the image: target/iso/elpis-VERSION.iso, boots from CD, USB stick or disk, BIOS or UEFI (as root)"
	@echo "make iso-test  the same, packed quickly: target/iso/elpis-test.iso"
	@echo "make deb    a Debian package for machines of your own: target/deb/elpis_VERSION_amd64.deb"
	@echo "make iso-manifest  asks Debian anew for the packages and writes them to iso/manifest, which a release is held to (as root)"
	@echo "make test-iso  builds it and boots it: three machines joined by their screens, one lost; updates (30 min)"
	@echo "make fuzz   5 minutes each of agent-file parser and Tentacle session, coverage-guided (SECONDS_EACH=300)"
setup:
	@scripts/setup
build: setup
	cargo build --release
run: build
	@exec target/release/elpis dev up --feed --dir $(DIR)
clean-run:
	@test -x target/release/elpis || $(MAKE) build
	@target/release/elpis dev remove --dir $(DIR)
demo: build
	@exec target/release/elpis dev demo --dir $(DIR)
test:
	@scripts/setup image
	@scripts/test
iso iso-test:
	@scripts/setup image
	cargo build --release -p elpis --bin elpis
	@iso/build target/release/elpis target/iso/elpis-$(if $(filter iso,$@),$(VERSION).iso release,test.iso test)
deb: setup
	cargo build --release -p elpis --bin elpis
	@deb/build target/release/elpis target/deb/elpis_$(VERSION)_amd64.deb
iso-manifest:
	@scripts/setup image
	@base=$$(iso/cached-base anew) && iso/differing iso/manifest "$$base.manifest" && cp "$$base.manifest" iso/manifest
test-iso: iso-test
	@ELPIS_VERSION=$(VERSION).1 iso/build target/release/elpis target/iso/elpis-next.iso test
	cargo test -p elpis-system-tests --test boot -- --include-ignored --nocapture
bench: setup
	cargo build --release -p elpis
	cargo build --release -p elpis-servers --example bench
	@TZ=UTC target/release/examples/bench $(ARGS)
proof: setup
	cargo build --release -p elpis -p elpis-system-tests --bins --example proof
	@TZ=UTC target/release/examples/proof $(ARGS)
faults-db: setup
	cargo build --release -p elpis -p elpis-system-tests --bins --example faults_db
	@TZ=UTC target/release/examples/faults_db $(ARGS)
fuzz: setup
	@scripts/fuzz
sim: setup
	cargo run --release -p elpis-sim --example sim -- --seeds 1..$(or $(SEEDS),20000)
mutants: setup
	@scripts/mutants $(ONLY)
