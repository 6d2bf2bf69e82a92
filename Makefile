# The newcomer's commands: `make rehearsal`, `make rehearsal PACKAGE=unsafe`, `make test`.
.DEFAULT_GOAL := help
.PHONY: bench-containers bench-fingerprint bench-recorder bench-synthetic help prerequisites build images clean-images maybe-images nightly parity rehearsal test lint docs

PACKAGE ?= safe
# Kind of the mirror: auto (containers where an engine answers), compose or local.
MIRROR ?= auto
FULLDRESS := target/debug/fulldress
# What is built: programs alone, or with TARGETS=--all-targets the tests too, which the gate does once for all.
TARGETS ?= --bins
# How often `make parity` plays everything.
ROUNDS ?= 1
# Extra arguments of `fulldress run`, such as `ARGS="--out /somewhere"`.
ARGS ?=
# The images that `make images` built, as assignments for the compose file. What the environment names already, wins.
IMAGES = $(foreach image,$(shell cat target/images.env 2>/dev/null),$(if $(value $(firstword $(subst =, ,$(image)))),,$(image)))

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

prerequisites: ## Install what is missing from the distribution
	@.ci/prerequisites

build: prerequisites ## Build everything
	@cargo build --workspace $(TARGETS)

images: build ## Build the images of the mirror without a registry; needs a Docker engine
	@fixtures/images/build

clean-images: ## Remove them again
	@fixtures/images/build clean

# Only where containers may be wanted; without images a rehearsal says so and takes the embedded mirror.
maybe-images: build
ifneq ($(MIRROR),local)
	@if timeout 30 docker info >/dev/null 2>&1; then fixtures/images/build || [ "$(MIRROR)" = auto ]; fi
endif

rehearsal: maybe-images ## Rehearse the storefront's upgrade; PACKAGE=safe (default) or unsafe, MIRROR=auto, compose or local
	@mkdir -p target/packages
	@$(FULLDRESS) package build fixtures/packages/storefront-2.4-$(PACKAGE) --out target/packages/storefront-2.4-$(PACKAGE).zip
	@$(IMAGES) $(FULLDRESS) run fixtures/storefront/rehearsal.toml --mirror $(MIRROR) --package target/packages/storefront-2.4-$(PACKAGE).zip $(ARGS)

nightly: maybe-images ## Rehearse both packages with all proofs into rehearsals/nightly; HISTORY=folder, KEEP=30 bundles of each, MIRROR as above
	@mkdir -p target/packages
	@for package in safe unsafe; do \
		$(FULLDRESS) package build fixtures/packages/storefront-2.4-$$package --out target/packages/storefront-2.4-$$package.zip || exit; \
	done
	@$(IMAGES) FULLDRESS=$(FULLDRESS) .ci/nightly --mirror $(MIRROR) $(ARGS)

parity: TARGETS = --all-targets
parity: MIRROR = auto
parity: maybe-images ## Rehearse both packages on both mirrors and hold the findings against each other; five times with ROUNDS=5
	@.ci/parity $(ROUNDS)

# Programs, images and tests from one build.
test: TARGETS = --all-targets
test: maybe-images ## Run every test, the ones with real PostgreSQL included, and containers where an engine answers
	@.ci/postgresql-versions || echo "PostgreSQL 16 and 18 could not be fetched: their tests are skipped"
	@.ci/test

bench-recorder: prerequisites ## Measure how exact the lock recorder is and what it costs; eight minutes on a quiet machine, less with PAIRS=4
	@cargo bench --profile dev --bench recorder

bench-fingerprint: prerequisites ## Measure how long the fingerprints of schema and data take; two minutes on a quiet machine
	@cargo bench --profile dev --bench fingerprint

bench-containers: images ## Measure what the mirror in containers costs: its gateway, its start, its copies; ten minutes on a quiet machine
	@for bench in gateway first_request copies; do $(IMAGES) cargo bench --profile dev --bench $$bench || exit 1; done

bench-synthetic: prerequisites ## Measure how fast synthetic rows are, against COPY from a file and pgbench; three minutes
	@cargo bench --profile dev --bench synthetic

lint: ## Formatting and clippy, warnings as errors
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings

docs: ## Write generated documentation and schemas again
	@FULLDRESS_REGENERATE=1 cargo test -q -p fulldress-reports
	@FULLDRESS_REGENERATE=1 cargo test -q -p fulldress --test trace
