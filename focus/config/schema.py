"""The typed settings of every command: names, types and limits. Defaults and meanings stand in conf/, above each key.

A limit stands beside its field (`Field(ge=1)`). `Hint` says what to do about a value outside of it; without one the
sentence is made from the limit (focus/config/messages.py). What depends on several keys, on files or on installed
packages is checked by functions: checks.py for commands, section_checks.py for sections.
"""

from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from focus.model.dialect import dialect_names


class Hint(str):
    """What the message for a value outside a field's limits ends with, after `KEY is VALUE; `."""


def _as_text(value: object) -> object:
    """A text that YAML reads as a number or as true is still a text: `name=2024`."""
    return str(value) if isinstance(value, bool | int | float) else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "a truth value is no number")
    return value


def _fits(value: object) -> object:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise PydanticCustomError("int_parsing_size", "it does not fit into 64 bits")
    return _no_bool(value)


def _letter_sizes(value: list[int]) -> list[int]:
    if value and not (len(value) == 2 and 6 <= value[0] <= value[1]):
        raise ValueError
    return value


Text = Annotated[str, BeforeValidator(_as_text)]
Folder = Annotated[Text, Field(min_length=1), Hint("name a folder")]
Whole = Annotated[int, BeforeValidator(_fits)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Whole, Field(ge=1)]
CountOrNone = Annotated[Whole, Field(ge=0)]  # where 0 means none
# More than any machine runs side by side: a typing error would start so many
Threads = Annotated[Whole, Field(ge=1, le=4096)]
Workers = Annotated[Whole, Field(ge=0, le=4096)]
Resamples = Annotated[Whole, Field(ge=1, le=1_000_000), Hint("an interval needs at least 1, 2000 is usual, 1000000 is the most")]
Share = Annotated[Number, Field(ge=0, le=1)]
Dtype = Literal["float32", "bfloat16"]
# Arms of the probe, as `focus.evaluation.outcome.PLAYABLE`
Arm = Literal[
    "own",
    "gt",
    "noise",
    "blank",
    "mean_colour",
    "elsewhere",
    "additive",
    "format_only",
    "tool_free",
    "forced",
    "conflict",
    "no_tool",
    "noise_first",
    "noise_second",
]
Difficulty = Annotated[Whole, Field(ge=1, le=5)]
LetterSizes = Annotated[
    Annotated[list[Whole], AfterValidator(_letter_sizes)] | None, Hint("give [least, most] native pixels, from 6 up, or null")
]
Seed = Annotated[Whole, Field(ge=0), Hint("use a whole number from 0 on")]
SceneSide = Annotated[Whole, Field(ge=112, le=8192), Hint("scenes are 112 to 8192 px wide")]
# A class to construct with its arguments: `_target_` and what that class takes. Checked against its signature (checks.py)
Target = dict[str, Any]


class Section(BaseModel):
    """A section of settings. It takes no key that it does not name, and no setting changes after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyConfig(Section):
    checkpoint: Text
    dialect: Annotated[Text, Hint(f"name the form of its calls: {', '.join(dialect_names())}, or a YAML file of yours (docs/dialects.md)")]
    prompts: Text | None
    dtype: Dtype
    train_vision: bool
    activation_checkpointing: bool
    lora_rank: Annotated[Whole, Field(ge=0), Hint("0 trains all weights, 8 to 64 are usual")]
    lora_alpha: Whole
    lora_targets: list[Text] | None
    export_dtype: Literal["auto", "float32", "bfloat16"]


class DataConfig(Section):
    source: Text
    difficulty: Difficulty
    side_px: SceneSide
    letter_px: LetterSizes
    scenes: Count
    mix: list[Text]
    records: Text | None
    columns: dict[Text, Text]
    root: Text | None
    cache_dir: Folder
    annotations: Text | None
    repair_annotations: bool
    derive_boxes: Annotated[
        Whole,
        Field(ge=0),
        Hint("give the least side of the smallest box in pixels (28 for Qwen2.5-VL, 32 for Qwen3-VL), or 0 to derive none"),
    ]
    max_question_chars: Annotated[Whole, Field(ge=1), Hint("give 1 or more: a question with more than that is left out and counted")]
    max_options: Annotated[Whole, Field(ge=2), Hint("give 2 or more: a question with more than that is left out and counted")]
    workers: Workers


class EndpointConfig(Section):
    url: Text | None
    model: Text | None
    key_env: Text
    timeout_s: Annotated[Number, Field(gt=0)]
    retries: CountOrNone
    concurrency: Threads
    extra: dict[str, Any]


class JudgeConfig(EndpointConfig):
    max_ungraded: Share
    min_decidable: Share


class AdaptiveConfig(Section):
    start_tokens: Annotated[Whole, Field(ge=1), Hint("a view has at least 1 token")]
    window: Count
    sharper_below: Share
    coarser_from: Share


class GapConfig(Section):
    mode: Literal["off", "fixed", "calibrated", "reader", "adaptive"]
    view_tokens: Annotated[Whole, Field(ge=1), Hint("a view has at least 1 token. To switch the gap off write gap=off")]
    table: Text | None
    adaptive: AdaptiveConfig | None

    @property
    def most_tokens(self) -> int:
        """The most visual tokens of a view, unless a table or the questions say so."""
        return self.adaptive.start_tokens if self.mode == "adaptive" and self.adaptive else self.view_tokens


_VLLM_DECIDES = Hint("it must be above 0, or null for vLLM's own choice")


class VLLMConfig(Section):
    mode: Annotated[
        Literal["colocated", "served"],
        Hint("choose colocated (on this process's device) or served (rollout.endpoint.url)"),
    ]
    weights: Text
    dtype: Literal["auto", "float32", "bfloat16"]
    memory_share: Annotated[Number, Field(gt=0, le=1), Hint("it is a share in (0, 1] of the device, and training needs the rest")]
    cache_gib: Annotated[Number | None, Field(gt=0), _VLLM_DECIDES]
    max_model_len: Annotated[Whole | None, Field(gt=0), _VLLM_DECIDES]
    block_size: Annotated[Whole | None, Field(gt=0), _VLLM_DECIDES]
    enforce_eager: bool


class RolloutConfig(Section):
    engine: Annotated[
        Literal["kv", "vllm", "openai"],
        Hint("choose kv (the policy is here), vllm (vLLM samples from a copy of it) or openai (it is served)"),
    ]
    endpoint: EndpointConfig | None
    vllm: VLLMConfig | None
    sampler_ratio_cap: Annotated[
        Number | None,
        Field(ge=1),
        Hint("below 1 it would weigh down tokens on which sampler and trainer agree. 2.0 is usual, null switches it off"),
    ]
    overlap: bool
    questions_per_update: Count
    rollouts_per_question: Annotated[Whole, Field(ge=2)]
    answers_per_crop: Count
    dead_groups: Literal["keep", "refill", "fork"]
    questions_per_forward: Annotated[Whole | None, Field(ge=1), Hint("use at least 1, or null for all side by side")]
    max_crops: CountOrNone
    crop_tokens: Count
    crop_min_tokens: Count
    fixed_crops: bool
    force_first_crop: bool
    tokens_per_turn: Count
    temperature: Annotated[Number, Field(gt=0), Hint("siblings sampled at 0 are all equal and teach nothing. Use 1.0")]


class RewardConfig(Section):
    terms: dict[str, Target]


class ObjectiveConfig(Section):
    updates: Count
    updates_per_rollout: Count
    learning_rate: Annotated[Number, Field(gt=0)]
    warmup_updates: CountOrNone
    weight_decay: Annotated[Number, Field(ge=0)]
    grad_clip: Annotated[Number, Field(gt=0)]
    clip: Annotated[Number, Field(gt=0)]
    dual_clip: Annotated[Number, Field(gt=1), Hint("it bounds the ratio of bad tokens and must be above 1 (3.0 is usual)")]
    advantage_epsilon: Annotated[Number, Field(ge=0)]
    tokens_per_forward: Count
    teach_groups: Literal["all", "accuracy"]


class EvaluationConfig(Section):
    samples: Annotated[Whole | None, Field(ge=0), Hint("use 0 (no evaluation) or more, or null for all questions")]
    records: Text | None
    difficulty: Annotated[Difficulty | None, Hint("choose 1 to 5, or null")]
    letter_px: LetterSizes
    arms: list[Arm]
    base: bool
    probe_every: Annotated[Whole, Field(ge=0), Hint("use 0 (no probe inside training) or more")]
    probe_samples: Count
    sigma: Annotated[Number, Field(ge=0), Hint("a standard deviation is 0 or more (of 255)")]
    questions_per_forward: Count
    temperature: Annotated[Number, Field(ge=0)]
    common_view_tokens: Count
    resamples: Resamples


class AlarmsConfig(Section):
    """Limits stand in `focus.training.alarms.CollapseAlarms`, which is constructed with these before a model loads."""

    window: Whole
    crop_rate: Number
    zero_variance: Number
    truncated: Number
    area_drift: Number
    tool_free: Number
    mismatch: Number
    equal_accuracy: Number


KeptMib = Annotated[Number, Field(ge=0), Hint("0 keeps texts and boxes alone")]


class ReportConfig(Section):
    checkpoint_every: Count
    checkpoint_minutes: Annotated[Number, Field(ge=0)]
    trajectories_every: Count
    kept_mib: KeptMib
    trajectories: CountOrNone


class CalibrationConfig(Section):
    search: Literal["ladder", "exhaustive", "bisection"]
    audit: CountOrNone
    floor_tokens: Count
    decoding: Literal["greedy", "vote"]
    votes: Count
    vote_temperature: Number
    agree_below: Annotated[
        Number,
        Field(gt=0, le=1),
        Hint("it is a share in (0, 1]: at 0 no level diverges, above 1 every level does"),
    ]
    require_correct_at_native: bool
    never_diverges: Literal["drop", "floor"]


class ServedConfig(Section):
    view_deviation: Annotated[Number | None, Field(ge=0), Hint("a share is 0 or more (0.1), null allows any")]
    refused: Annotated[Share, Hint("it is a share of the questions, 0 to 1")]


class ViewConfig(Section):
    min_tokens: Count
    max_tokens: Annotated[Whole | None, Field(ge=1), Hint("use at least 1")]


class LengthsConfig(Section):
    question: Annotated[Number, Field(ge=0)]
    longest_question: CountOrNone
    view: Annotated[Number | None, Field(ge=1)]
    turn: Annotated[Number, Field(ge=1)]
    crops: Annotated[Number, Field(ge=0)]
    crop: Annotated[Number | None, Field(ge=1)]


Pictures = Annotated[Whole, Field(ge=1), Hint("show at least 1")]


class TrainConfig(Section):
    """Everything that `train` reads."""

    name: Text
    output: Folder
    seed: Seed
    threads: Threads
    policy: PolicyConfig
    data: DataConfig
    gap: GapConfig
    rollout: RolloutConfig
    reward: RewardConfig
    objective: ObjectiveConfig
    evaluation: EvaluationConfig
    alarms: AlarmsConfig
    judge: JudgeConfig
    report: ReportConfig
    trainer: Target
    logger: Target
    results: Text | None


class PlanConfig(TrainConfig):
    """Everything that `plan` reads: the settings of a run, and the machine that it is planned for."""

    device: Text
    devices: Annotated[Whole | None, Field(ge=1), Hint("a node has at least 1")]
    lengths: LengthsConfig


class MeasurementConfig(Section):
    """What `probe` and `evaluate` both read."""

    output: Text | None
    seed: Seed
    threads: Threads
    policy: PolicyConfig
    data: DataConfig
    rollout: RolloutConfig
    evaluation: EvaluationConfig


class ProbeConfig(MeasurementConfig):
    """Everything that `probe` reads."""

    judge: EndpointConfig
    views: list[Whole]
    served: ServedConfig
    pictures: Pictures
    kept_mib: KeptMib


class ProtocolConfig(Section):
    """A version of the protocol of the audit."""

    version: Count
    views: Annotated[list[Count], Field(min_length=1), Hint("name at least one budget, e.g. [1024,16384]")]
    made: list[Literal["scenes", "pages"]]
    sides_px: Annotated[list[SceneSide], Field(min_length=1), Hint("name at least one side, 112 to 8192 px")]
    letter_px: LetterSizes
    published: list[Text]
    samples: Annotated[Whole | None, Field(ge=1), Hint("use at least 1, or null for as many as the power needs")]
    effect: Share
    discordant: Share
    power: Annotated[Number, Field(gt=0, lt=1)]
    alpha: Annotated[Number, Field(gt=0, lt=1)]
    repeated: CountOrNone


class AuditConfig(MeasurementConfig):
    """Everything that `audit` reads."""

    judge: EndpointConfig
    served: ServedConfig
    audit: ProtocolConfig
    kept_mib: KeptMib


class AuditCompareConfig(Section):
    """Everything that `audit_compare` reads."""

    cards: Annotated[
        list[Text], Field(min_length=2, max_length=2), Hint("give two cards: [outputs/audit/a/card.json,outputs/audit/b/card.json]")
    ]
    output: Folder


class EvaluateConfig(MeasurementConfig):
    """Everything that `evaluate` reads."""

    view: ViewConfig
    options: Literal["shuffled", "published"]
    extraction: Literal["strict", "lmms", "vlmevalkit", "mme"]
    repeats: Annotated[Whole, Field(ge=1), Hint("a question is asked at least once")]
    judge: EndpointConfig
    served: ServedConfig
    pictures: Pictures
    kept_mib: KeptMib


class AgentConfig(Section):
    """Everything that `focus.Agent` reads."""

    seed: Seed
    threads: Threads
    policy: PolicyConfig
    rollout: RolloutConfig
    view_tokens: Count
    temperature: Annotated[Number, Field(ge=0)]


class AskConfig(AgentConfig):
    """Everything that `ask` reads."""

    image: Text
    question: Text
    options: list[Text]
    counterfactual: Literal["noise", "blank", "mean_colour", "elsewhere"] | None
    output: Text | None


class ServeConfig(AgentConfig):
    """Everything that `serve` reads."""

    host: Annotated[Text, Field(min_length=1), Hint("name an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them")]
    port: Annotated[Whole, Field(ge=0, le=65535), Hint("a port is 1 to 65535, and 0 takes a free one")]
    key_env: Text
    max_request_mib: Annotated[Number, Field(gt=0)]
    max_question_chars: Count


class CalibrateConfig(Section):
    """Everything that `calibrate` reads."""

    output: Folder
    seed: Seed
    threads: Threads
    policy: PolicyConfig
    data: DataConfig
    calibration: CalibrationConfig
    judge: EndpointConfig
    questions_per_forward: Count
    tokens_per_turn: Count


class BaseConfig(Section):
    """Everything that `base` reads."""

    output: Folder
    start: Text | None
    vocabulary: Annotated[Whole, Field(ge=512)]
    deepstack: list[Whole]
    seed: Seed
    threads: Threads
    workers: Workers
    rows: Count
    learning_rate: Annotated[Number, Field(gt=0)]
    difficulties: list[Difficulty]
    phases: list[dict[str, Any]]


class ExportConfig(Section):
    """Everything that `export` reads."""

    output: Folder
    split: Literal["train", "eval"]
    difficulty: Difficulty
    side_px: SceneSide
    letter_px: LetterSizes
    scenes: Count
    first: CountOrNone


class InspectConfig(Section):
    """Everything that `inspect` reads."""

    output: Folder
    seed: Seed
    data: DataConfig
    pictures: Annotated[Whole, Field(ge=1, le=200), Hint("a contact sheet holds 1 to 200. Another seed shows other questions")]


Weight = Annotated[Number, Field(ge=0), Hint("a share is 0 (never asked) or more")]


class SharesConfig(Section):
    """How often each kind of question is asked."""

    after: Weight
    line_end: Weight
    place: Weight
    below: Weight
    colour: Weight
    count_digits: Weight
    yes_no: Weight
    choice: Weight


class QuestionsConfig(Section):
    """Everything that `questions` reads."""

    folder: Folder
    output: Text | None
    seed: Seed
    threads: Threads
    page_px: Annotated[Whole, Field(ge=256, le=16384), Hint("a page is rendered 256 to 16384 px long")]
    pages_per_file: Count
    questions_per_page: Count
    least_confidence: Share
    audit_pages: CountOrNone
    token_px: Count
    floor_tokens: Count
    shares: SharesConfig


class AnnotateConfig(Section):
    output: Text | None
    checkpoint: Text | None


class ServedPolicyConfig(Section):
    """A policy on a model server: its url up to /v1, its name there, its dialect."""

    url: Text
    model: Text
    dialect: Text


class LightboxConfig(Section):
    """Everything that `lightbox` reads."""

    folders: Annotated[list[Folder], Field(min_length=1), Hint("name at least one folder: folders=[outputs]")]
    host: Annotated[Text, Field(min_length=1), Hint("name an address of this machine")]
    port: Annotated[Whole, Field(ge=1, le=65535), Hint("ports are 1 to 65535")]
    data: DataConfig
    annotate: AnnotateConfig
    served: list[ServedPolicyConfig]


class SweepConfig(Section):
    """Everything that `sweep` reads."""

    sweep: Text
    metrics: list[Text]
    resamples: Resamples


class DashboardConfig(Section):
    """Everything that `dashboard` reads."""

    project: Annotated[Text, Field(pattern=r"^[^/\s]+/[^/\s]+$"), Hint("write ENTITY/PROJECT, as in the address of the project's page")]


SCHEMAS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "plan": PlanConfig,
    "probe": ProbeConfig,
    "ask": AskConfig,
    "serve": ServeConfig,
    "calibrate": CalibrateConfig,
    "base": BaseConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
    "inspect": InspectConfig,
    "questions": QuestionsConfig,
    "sweep": SweepConfig,
    "dashboard": DashboardConfig,
    "lightbox": LightboxConfig,
    "audit": AuditConfig,
    "audit_compare": AuditCompareConfig,
}


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field holds, `X` or `X | None`; None for a field that holds a value, a list of sections too."""
    if get_origin(annotation) is list:
        return None
    for each in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(each, type) and issubclass(each, Section):
            return each
    return None


def keys_of(schema: type[Section]) -> list[str]:
    """The full keys of all values: `seed`, `rollout.endpoint.url`, ... . Sections of free keys (`trainer`) are one."""
    found = []
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        found += [f"{name}.{key}" for key in keys_of(section)] if section else [name]
    return found
