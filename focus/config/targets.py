"""Checks of sections that are constructed by their `_target_`: reward terms, Lightning's trainer, loggers, callbacks."""

import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from focus.config.messages import shown

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # `get_class` logs what it raises; `target_problems` gives the reason

# Keys of Lightning's Trainer that may be set. The program sets all others, or they mean nothing for a loop of rollout and update
TRAINER = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision",
    "callbacks", "max_time", "max_steps", "limit_train_batches", "enable_progress_bar",
    "benchmark", "deterministic", "detect_anomaly", "profiler",
)  # fmt: skip
INSTEAD = {
    "logger": "choose logger=csv, tensorboard or wandb",
    "max_epochs": "objective.updates is the length of a run",
    "min_epochs": "objective.updates is the length of a run",
    "min_steps": "objective.updates is the length of a run",
    "fast_dev_run": "make smoke tries everything in a minute; objective.updates=1 makes one update",
    "overfit_batches": "data.scenes or data.records choose the questions, objective.updates the number of updates",
    "log_every_n_steps": "every update is logged",
    "enable_checkpointing": "report.checkpoint_every says how often",
    "default_root_dir": "output names the folder of the run",
    "gradient_clip_val": "use objective.grad_clip",
    "accumulate_grad_batches": "use objective.tokens_per_forward",
}
# Other precisions keep what learns in 16 bits, which loses small steps, or scale gradients, which are clipped here unscaled
PRECISIONS = ("32-true", "32", "None", "bf16-mixed", "bf16")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")

# As Lightning reads trainer.devices: a number, -1, `0,1` or a list of indices
DEVICES = re.compile(r"-1|0*[1-9]\d*|\d+(,\s*\d*)+|\[\d+(, \d+)*\]")


def target_problems(key: str, call: Mapping[str, Any]) -> list[str]:
    """Does `_target_` exist, and does it take these arguments?"""
    if "_target_" not in call:
        return [f"{key} has no _target_; give the class to construct, e.g. focus.rewards.Accuracy"]
    try:
        target = get_class(call["_target_"])
    except Exception as error:  # whatever the module of a user raises while it is imported
        return [f"{key}._target_ is {call['_target_']}, which can't be imported: {error}"]
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    given = {*call} - {"_target_"}
    problems = []
    if unknown := sorted(given - set(parameters)):
        problems.append(f"{key} does not take {', '.join(unknown)}; {target.__name__} takes {', '.join(parameters)}")
    needed = [
        name for name, p in parameters.items()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and name not in given
    ]  # fmt: skip
    if needed:
        problems.append(f"{key} lacks {', '.join(needed)}, which {target.__name__} needs")
    return problems


def term_problems(terms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Reward terms that can't be constructed, and gates that are no terms."""
    problems = [] if terms else ["reward.terms is empty; without a reward nothing is learned"]
    for name, term in terms.items():
        problems += target_problems(f"reward.terms.{name}", term) or _refusals(f"reward.terms.{name}", term)
        gate = term.get("gate")
        if gate is not None and gate not in terms:
            problems.append(f"reward.terms.{name}.gate is {gate!r}, which is no term; the terms are {', '.join(terms)}")
    return problems


def _refusals(key: str, term: Mapping[str, Any]) -> list[str]:
    """What a term says of its own settings when it is constructed, a weight that is no number, and a class that is no term."""
    from focus.rewards import RewardCallback

    try:
        made = instantiate(term)
    except InstantiationException as error:
        return [f"{key} can't be constructed: {error.__cause__ or error}"]
    if not isinstance(made, RewardCallback):
        return [f"{key}._target_ is {term['_target_']}, which is no reward term; name a subclass of focus.rewards.RewardCallback"]
    if isinstance(made.weight, int | float) and not isinstance(made.weight, bool):  # what is not finite is found in all settings
        return []
    return [f"{key}.weight is {shown(made.weight)}; write a number, 0 to look at the term without paying it"]


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Settings of Lightning that the program would overwrite, and strategies that can't make an update."""
    problems = [f"trainer.{key} can't be set: {INSTEAD[key]}" for key in sorted({*trainer} & {*INSTEAD})]
    if others := sorted({*trainer} - {*TRAINER} - {*INSTEAD}):
        problems.append(f"trainer.{', trainer.'.join(others)} can't be set; of Lightning's trainer there are {', '.join(TRAINER[1:])}")
    if not problems:
        problems += target_problems("trainer", trainer)
    if str(trainer.get("precision")) not in PRECISIONS:
        problems.append(
            f"trainer.precision is {trainer['precision']}; choose 32-true, or bf16-mixed, which computes in bfloat16 and "
            "keeps what learns in float32"
        )
    if (devices := trainer.get("devices", "auto")) != "auto" and not DEVICES.fullmatch(str(devices)):
        problems.append(f"trainer.devices is {devices!r}; give their number (1 or more), a list of indices ([0,1]), -1 or auto for all")
    if not (isinstance(nodes := trainer.get("num_nodes", 1), int) and nodes >= 1):
        problems.append(f"trainer.num_nodes is {nodes!r}; give a whole number from 1 on")
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        problems.append(
            f"trainer.strategy is {strategy!r}; choose auto or ddp, or trainer=fsdp or trainer=deepspeed where weights are to be divided"
        )
    callbacks = trainer.get("callbacks") or []
    if not isinstance(callbacks, list):
        return [*problems, "trainer.callbacks is no list; write trainer.callbacks=[{_target_: my_package.MyCallback}]"]
    for i, callback in enumerate(callbacks):
        problems += target_problems(f"trainer.callbacks[{i}]", callback)
    return problems
