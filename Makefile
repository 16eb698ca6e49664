# make quickstart   fine-tunes a real model on this machine in a few minutes
# make test         proves the project on this machine
# make faults       the long run of its kill points, beside `make test`
# make coverage     which branches of guards and checkpoints their tests reach; 95 % is asked for
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test faults coverage lint test-gpu benchmark benchmark-gpu benchmark-curation clean

# The three commands a user would type; each run gets a folder of its own.
quickstart: $(READY) data/python-stdlib.jsonl
	$(BIN)/luthier model add smollm2-135m
	$(BIN)/luthier train recipes/quickstart.yaml output_dir=runs/quickstart-$$(date +%Y%m%d-%H%M%S)

data/python-stdlib.jsonl: $(READY)
	@test -e $@ || $(BIN)/luthier data from-python stdlib --out $@
	@touch $@

# Kernels run in Triton's interpreter, which needs no GPU.
test: $(READY)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m "not gpu and not faults"

# Every operation of saving, with every way to fail: minutes.
faults: $(READY)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m faults

WATCHED := */train/guards.py,*/train/checkpoint*.py,*/core/disk.py,*/core/files.py,*/core/lock.py,*/stages/facts.py
coverage: $(READY)
	TRITON_INTERPRET=1 $(BIN)/coverage run --branch --source=luthier -m pytest -q -m "not gpu and not faults" \
		tests/unit/test_guards.py tests/unit/test_checkpoint.py tests/unit/test_core.py tests/unit/test_facts.py \
		tests/faults/test_guards_run.py tests/faults/test_checkpoint_*.py tests/faults/test_disk_full.py \
		tests/invariants/test_resume.py
	$(BIN)/coverage report -m --fail-under=95 --include="$(WATCHED)"

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Against TRL and PEFT, which live in an environment of their own.
benchmark: $(READY) .venv-bench/.ready data/python-stdlib.jsonl
	$(BIN)/luthier model add smollm2-135m
	$(BIN)/python benchmarks/cpu_sft.py --peer-python .venv-bench/bin/python
	$(BIN)/python benchmarks/loss_curve.py --peer-python .venv-bench/bin/python
	$(BIN)/python benchmarks/generate.py

# Steps and kernels on a GPU, beside what is installed of TRL, Liger and Unsloth; without a GPU, a dry run.
benchmark-gpu: $(READY)
	$(BIN)/python benchmarks/gpu/run.py

# Curation: speed, side by side with semhash and datasketch, and what an injection of known defects finds.
# DATA is a folder with dolly_3k.json, gsm8k_train.jsonl, human_eval.jsonl, codegen_instruct.json, pii_synth_v2.json.
benchmark-curation: $(READY) .venv-bench/.ready
	$(BIN)/luthier model add smollm2-135m
	$(BIN)/python benchmarks/curation/injection.py --half reported --personal $(DATA)/pii_synth_v2.json \
		--pools dolly=$(DATA)/dolly_3k.json gsm8k=$(DATA)/gsm8k_train.jsonl \
		human_eval=$(DATA)/human_eval.jsonl code=$(DATA)/codegen_instruct.json
	$(BIN)/python benchmarks/curation/dedup_peers.py --peer-python .venv-bench/bin/python --embeddings smollm2-135m
	$(BIN)/python benchmarks/curation/speed.py --embeddings smollm2-135m
	$(BIN)/python benchmarks/curation/ifd.py --rows $(DATA)/dolly_3k.json --number 300

.venv-bench/.ready: constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt torch trl peft datasets semhash datasketch
	@touch $@

clean:
	rm -rf .venv .venv-bench build dist .pytest_cache .ruff_cache

# One environment with the tested versions; made once, and again when the pins change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Luthier needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
