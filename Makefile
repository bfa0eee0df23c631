.PHONY: setup build test fuzz help
# Plain words for each target: `make help`.
help:
	@echo "make setup  install what building and testing need (apt, cargo), make the shared target folder"
	@echo "make build  optimised build: target/release/elpis"
	@echo "make test   set up, then run every test: formatting, spelling, clippy, docs, unit, loopback"
	@echo "make fuzz   5 minutes each of agent-file parser and Tentacle session, coverage-guided (SECONDS_EACH=300)"
setup:
	@scripts/setup
build: setup
	cargo build --release
test: setup
	@scripts/test
fuzz: setup
	@scripts/fuzz
