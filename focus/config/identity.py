"""Which settings matter for what. This is the only place that says so; a test holds that every key is in one list.

A run that resumes, a row of a results file and a measurement that is kept are found again by hashes of the settings
they depend on. The names in these hashes are those of the first recorded runs, so that recorded results keep theirs.
All functions take settings as plain dicts, as `settings.yaml` and `model_dump()` have them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from focus.config.messages import ConfigError
from focus.model.dialect import read_dialect

Settings = Mapping[str, Any]

# A key stands for everything below it: `trainer` for `trainer.devices`.

# Settings that earlier versions called otherwise. Hashes and kept settings have the earlier name
EARLIER = {"data.cache_dir": "data.kept"}

# How a conversation is played: it moves both the trained weights and a measurement of given weights
PLAYED = (
    *("policy.dialect", "policy.prompts", "policy.dtype", "gap.mode", "gap.view_tokens", "seed"),
    *("rollout.engine", "rollout.max_crops", "rollout.crop_tokens", "rollout.crop_min_tokens", "rollout.fixed_crops"),
    *("rollout.tokens_per_turn", "rollout.vllm.dtype"),
)
# Settings of LEARNED that came after recorded runs: at their defaults they are not in a hash
NEW_LEARNED = {"rollout.overlap": False, "rollout.answers_per_crop": 1, "rollout.dead_groups": "keep", "gap.adaptive": None}
# What is learned, from what and how: it moves the trained weights, not a measurement of given weights and questions
LEARNED = (
    *("policy.checkpoint", "policy.train_vision", "policy.lora_rank", "policy.lora_alpha", "policy.lora_targets"),
    *("data.source", "data.difficulty", "data.side_px", "data.letter_px", "data.scenes", "data.mix", "data.records"),
    "data.columns",
    *("data.root", "data.cache_dir", "data.annotations", "data.repair_annotations", "data.derive_boxes"),
    *("data.max_question_chars", "data.max_options", "gap.table", "rollout.sampler_ratio_cap", "rollout.temperature"),
    *("rollout.questions_per_update", "rollout.rollouts_per_question", "rollout.force_first_crop", "reward"),
    *NEW_LEARNED,
    *("objective.updates_per_rollout", "objective.learning_rate", "objective.warmup_updates", "objective.weight_decay"),
    *("objective.grad_clip", "objective.clip", "objective.dual_clip", "objective.advantage_epsilon"),
    "objective.teach_groups",
)
# How long a run is and what it leaves: may change until it has finished
LENGTH = ("objective.updates", "policy.export_dtype")
# What makes a run fit into memory: may change when it resumes, though a row of a results file names it
MEMORY = (
    *("rollout.questions_per_forward", "objective.tokens_per_forward", "policy.activation_checkpointing"),
    "data.workers",
)
# What a measurement of given weights on given questions is: arms, temperature, views
MEASURED = (
    *("evaluation.arms", "evaluation.temperature", "evaluation.sigma", "evaluation.common_view_tokens"),
    *("view.min_tokens", "view.max_tokens"),
)
# What is measured besides, how often, and with how many resamples: a row of a results file names it
EVALUATED = (
    *("evaluation.samples", "evaluation.records", "evaluation.difficulty", "evaluation.letter_px", "evaluation.base"),
    *("evaluation.probe_every", "evaluation.probe_samples", "evaluation.questions_per_forward", "evaluation.resamples"),
)
# Which model grades. Where it is served is no part of it. It counts only where `judge.url` names a server
GRADED = ("judge.model", "judge.extra")
# How views are chosen (calibrate)
CALIBRATED = ("calibration", "tokens_per_turn")
# What an evaluation or a probe asks for besides. `options` stands in the name of an evaluation, the others in its lines
ASKED = ("views", "options", "extraction", "repeats")
# Where something runs: a server, a device, a number of threads. Of the trainer its arithmetic belongs to a measurement
PLACE = (
    *("rollout.endpoint", "rollout.vllm.mode", "rollout.vllm.weights", "rollout.vllm.memory_share"),
    *("rollout.vllm.cache_gib", "rollout.vllm.max_model_len", "rollout.vllm.block_size", "rollout.vllm.enforce_eager"),
    *("judge.url", "judge.key_env", "judge.timeout_s", "judge.retries", "judge.concurrency", "trainer", "threads"),
    *("questions_per_forward", "workers"),
)
# Where results go and what is shown of them
REPORTED = (
    *("name", "output", "results", "logger", "report", "alarms", "judge.max_ungraded", "judge.min_decidable"),
    *("served", "pictures", "kept_mib"),
)
# Commands whose results are made anew each time, and the training of the base policy, which keeps all its settings
UNKEPT = (
    *("device", "devices", "lengths", "split", "difficulty", "side_px", "letter_px", "scenes", "first"),
    *("image", "question", "counterfactual", "view_tokens", "temperature", "cards"),
    *("key_env", "max_request_mib", "max_question_chars"),
    *("sweep", "metrics", "resamples", "rows", "learning_rate", "difficulties", "phases", "start", "vocabulary", "deepstack"),
    *("folders", "host", "port", "annotate"),
    *("folder", "page_px", "pages_per_file", "questions_per_page", "least_confidence", "audit_pages", "token_px", "floor_tokens"),
    *("shares", "audit"),
    "project",
)
# Settings that are gone, with the value that the code follows now, and those of reward terms by the term's class. They
# stay in the identity: recorded points keep their hashes, and a run that had another value is not resumed
GONE = {"objective.mask_overturn": False, "policy.attention": "auto"}
GONE_FROM_TERMS = {"focus.rewards.Grounding": {"crops": "last"}, "focus.rewards.InformationGain": {"form": "p"}}
LISTS = (PLAYED, LEARNED, LENGTH, MEMORY, MEASURED, EVALUATED, GRADED, CALIBRATED, ASKED, PLACE, REPORTED, UNKEPT)

# Two evaluations with these entries alike (`evaluation.json`, "settings") may stand in one row beside the paper's tables
COMPARABLE = (
    *("weights", "view_tokens", "crop_tokens", "max_crops", "tokens_per_turn", "temperature", "options", "extraction"),
    "dialect",
)


def under(key: str, names: tuple[str, ...]) -> bool:
    """Whether a full key is in a list, itself or with the section it belongs to."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its full key."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def learned_settings(settings: Settings) -> dict[str, Any]:
    """Every setting that can move the trained weights, by its full key."""
    named = {EARLIER.get(key, key): value for key, value in flat(settings)}
    lists = (*PLAYED, *LEARNED, *LENGTH, *MEMORY, *EARLIER.values())
    kept = {key: value for key, value in named.items() if under(key, lists)}
    # Recorded hashes have an entry for each of these sections where it is not used
    kept |= {f"rollout.{name}": None for name in ("endpoint", "vllm") if settings["rollout"][name] is None}
    if settings["rollout"]["vllm"]:
        kept["rollout.vllm.dtype"] = sampler_dtype(settings)
    if kept.get("policy.prompts", "") is None:  # runs from before this setting have no such entry
        del kept["policy.prompts"]
    kept = {key: value for key, value in kept.items() if key not in NEW_LEARNED or value != NEW_LEARNED[key]}
    kept |= {key: named.get(key, value) for key, value in GONE.items()}
    for name, term in settings["reward"]["terms"].items():
        for key, value in GONE_FROM_TERMS.get(term.get("_target_"), {}).items():
            kept.setdefault(f"reward.terms.{name}.{key}", value)
    judge = settings.get("judge") or {}
    if judge.get("url"):  # runs from before there was a judge have no such entry
        kept["judge.model"] = judge["model"]
    return kept


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def settings_hash(settings: Settings) -> str:
    """What identifies a point of a sweep: all settings that move the trained weights or how they are measured."""
    return _digest({**learned_settings(settings), "evaluation": settings["evaluation"]})


def _dialect_identity(policy: Settings) -> str:
    """The name of a dialect whose texts never change, else a hash of the texts. Older runs have no `prompts`."""
    return read_dialect(policy["dialect"], policy.get("prompts")).identity


def measurement_hash(settings: Settings) -> str:
    """What identifies how given weights are measured on given questions."""
    given = dict(flat(settings))
    always = [key for key in (*PLAYED, *MEASURED) if key not in ("rollout.vllm.dtype", "policy.prompts")]
    kept = {key: str(given.get(key)) for key in always}
    kept["policy.dialect"] = _dialect_identity(settings["policy"])
    kept["policy.attention"] = given.get("policy.attention", GONE["policy.attention"])
    if given["rollout.engine"] == "vllm":
        kept["rollout.vllm.dtype"] = sampler_dtype(settings)
    if "trainer" in settings:
        kept["arithmetic"] = arithmetic_of(settings["trainer"])
    return _digest(kept)


def measurement(settings: Settings, weights: str, questions: str) -> str:
    """The name of a measurement: hashes of the weights, of the settings it depends on, and of the questions' content."""
    return f"{weights} {measurement_hash(settings)} {questions}"


def graded_by(settings: Settings) -> str:
    """What the name of graded outcomes has besides: the judge's model and `extra`, nothing without a judge."""
    judge = settings["judge"]
    if not judge["url"]:
        return ""
    extra = json.dumps(judge["extra"], sort_keys=True) if judge["extra"] else ""
    return f" judge {judge['model']}{extra}"


def calibration_identity(settings: Settings) -> str:
    """What a choice of views depends on, beside weights and questions."""
    policy = settings["policy"]
    asked = [_dialect_identity(policy), policy["dtype"], GONE["policy.attention"]]
    return json.dumps([settings["calibration"], settings["tokens_per_turn"], settings["seed"], *asked])


def arithmetic_of(trainer: Mapping[str, Any]) -> str:
    """The dtype that a policy computes in under this trainer: bfloat16 or float32. `policy.dtype` is what it is stored in."""
    strategy = trainer.get("strategy")
    divided = isinstance(strategy, Mapping) and strategy.get("arithmetic") == "bfloat16"
    return "bfloat16" if divided or str(trainer.get("precision")).startswith("bf16") else "float32"


def played_dtype(settings: Settings) -> str:
    """The dtype in which a policy of this run plays, and in which it is loaded to be measured: bfloat16 or float32."""
    return "bfloat16" if "bfloat16" in (settings["policy"]["dtype"], arithmetic_of(settings["trainer"])) else "float32"


def export_dtype(settings: Settings) -> str:
    """The dtype of the weights in `policy/`. `auto` keeps what was learned: float32, unless the policy was sampled in bfloat16."""
    chosen = settings["policy"]["export_dtype"]
    return played_dtype(settings) if chosen == "auto" else chosen


def sampler_dtype(settings: Settings) -> str:
    """The dtype of vLLM's weights and arithmetic. `auto` is what the trainer computes in, without a trainer `policy.dtype`."""
    dtype = settings["rollout"]["vllm"]["dtype"]
    if dtype != "auto":
        return dtype
    return "bfloat16" if "bfloat16" in (settings["policy"]["dtype"], arithmetic_of(settings.get("trainer", {}))) else "float32"


def refuse_other_run(settings: Settings, kept: Path, finished: bool) -> None:
    """Raise ConfigError if the settings in the file `kept` are those of another run: resuming it would mix two runs.

    A run that has not finished may be given another length, and whatever fits into memory. References in the file are not
    looked up: someone else may have written it, and one may name an environment variable.
    """
    try:
        written = OmegaConf.to_container(OmegaConf.load(kept))
        if not isinstance(written, dict):
            raise OSError("it holds no settings")
    except (OSError, YAMLError) as error:
        raise ConfigError(
            f"{kept.parent} holds a run whose {kept.name} can't be read ({type(error).__name__}), so it is not known whether "
            "this is the same run; copy the file back, give this one another name (name=...), or remove that folder"
        ) from error
    before, now = learned_settings(written), learned_settings(settings)  # type: ignore[arg-type]
    free = () if finished else (*LENGTH, *MEMORY)

    def shown(settings: Mapping[str, Any], key: str) -> Any:
        return settings.get(key, NEW_LEARNED.get(key, "no such setting"))

    changed = [
        f"{key}: {shown(before, key)} then, {shown(now, key)} now"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not under(key, free)
    ]
    if changed:
        raise ConfigError(
            f"{kept.parent} holds a run with other settings:\n"
            + "\n".join(f"  - {change}" for change in changed)
            + "\nGive this one another name (name=...), or remove that folder"
        )
