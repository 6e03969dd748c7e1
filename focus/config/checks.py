"""Checks of whole commands, which depend on several keys, on files, or on what the code offers; one sentence for each problem.

Limits of a single key stand beside its field (schema.py). Sections that commands share are checked in section_checks.py, what a machine
lacks in machine.py.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from focus.config.machine import crowded
from focus.config.messages import shown
from focus.config.policy_settings import HUB_NAME
from focus.config.schema import (
    AgentConfig,
    AskConfig,
    AuditConfig,
    CalibrateConfig,
    EvaluateConfig,
    InspectConfig,
    LightboxConfig,
    PlanConfig,
    ProbeConfig,
    QuestionsConfig,
    RolloutConfig,
    Section,
    ServeConfig,
    TrainConfig,
)
from focus.config.section_checks import (
    DRAWN,
    data_problems,
    evaluation_problems,
    file_problems,
    judge_problems,
    policy_problems,
    rollout_problems,
)
from focus.config.targets import target_problems, term_problems, trainer_problems
from focus.config.views import view_budgets
from focus.runtime.listen import LOOPBACK

BUDGET_STEP = 4096  # tokens, between two budgets of a forward that are advised
EMBEDDED_VIEW = 16  # visual tokens of the view that an evaluation of the embedded policy shows: what its stage 1 trains at


def overlap_problems(cfg: TrainConfig) -> list[str]:
    """An engine that can't sample while the policy trains."""
    rollout, strategy = cfg.rollout, cfg.trainer.get("strategy", "auto")
    if not rollout.overlap:
        return []
    served = "use rollout=vllm rollout.vllm.mode=served, a vLLM on devices of its own"
    if rollout.engine == "vllm" and rollout.vllm and rollout.vllm.mode == "colocated":
        return [f"rollout.overlap is true, but a colocated vLLM sleeps while the policy trains; {served}, or rollout.overlap=false"]
    if rollout.engine == "kv" and (cfg.trainer.get("accelerator") != "cpu" or not isinstance(strategy, str)):
        return [
            "rollout.overlap is true with rollout=kv, which samples on the device that trains and keeps a whole copy of the weights "
            f"there; on a GPU or with divided weights {served}, or rollout.overlap=false"
        ]
    return []


def forking_problems(cfg: TrainConfig) -> list[str]:
    """Groups that can't be divided into crops and answers, and rollouts that can't be sampled again."""
    rollout, problems = cfg.rollout, []
    answers, siblings = rollout.answers_per_crop, rollout.rollouts_per_question
    if answers > 1 and (siblings % answers or siblings < 2 * answers):
        problems.append(
            f"rollout.answers_per_crop is {answers} and rollout.rollouts_per_question {siblings}; a group needs at least 2 crops with "
            "equally many answers each, e.g. rollout.answers_per_crop=2 rollout.rollouts_per_question=8"
        )
    if rollout.overlap and (answers > 1 or rollout.dead_groups != "keep"):
        problems.append(
            "rollout.overlap is true, but rollouts are sampled again only after the first ones (answers_per_crop above 1) or their grades "
            "(dead_groups); choose rollout.overlap=false, or answers_per_crop=1 and dead_groups=keep"
        )
    if rollout.max_crops == 0 and (answers > 1 or rollout.dead_groups == "fork"):
        asked = f"dead_groups {rollout.dead_groups}" if answers == 1 else f"answers_per_crop {answers}"
        problems.append(
            f"rollout.max_crops is 0 and rollout.{asked}: without crops there is no call to sample from again; raise rollout.max_crops, or "
            "choose answers_per_crop=1 and dead_groups=keep"
        )
    if rollout.dead_groups != "keep" and "accuracy" not in cfg.reward.terms:
        problems.append(
            f"rollout.dead_groups is {rollout.dead_groups}, but reward.terms has no term accuracy, which tells dead groups from those that "
            "are all right; choose keep, or add the term"
        )
    return problems


def _play_problems(cfg: TrainConfig | ProbeConfig | EvaluateConfig) -> list[str]:
    """Problems of everything that plays questions: policy, data, judge, rollout and evaluation."""
    return [
        *policy_problems(cfg.policy, served=cfg.rollout.engine == "openai"),
        *data_problems(cfg.data),
        *judge_problems(cfg.judge),
        *rollout_problems(cfg.rollout, cfg.policy, cfg.evaluation.arms),
        *evaluation_problems(cfg.evaluation),
    ]


def _forced_problems(rollout: RolloutConfig) -> list[str]:
    """A setting that a probe and an evaluation would not follow."""
    if not rollout.force_first_crop:
        return []
    return [
        "rollout.force_first_crop is true, which training and make audit follow; a probe and an evaluation have the arm forced: add it to "
        "evaluation.arms, and leave rollout.force_first_crop=false"
    ]


def adaptive_problems(cfg: TrainConfig) -> list[str]:
    """An adaptive gap without its settings, without anything to follow, or with levels that leave nothing to adapt."""
    if cfg.gap.mode != "adaptive":
        return []
    a, problems = cfg.gap.adaptive, []
    if a is None:
        return ["gap.mode is adaptive but gap.adaptive is null; choose the whole group: gap=adaptive"]
    if not a.sharper_below < a.coarser_from:
        problems.append(f"gap.adaptive.sharper_below is {a.sharper_below} and coarser_from {a.coarser_from}; the first must be smaller")
    if a.start_tokens <= cfg.gap.view_tokens:
        problems.append(
            f"gap.adaptive.start_tokens is {a.start_tokens} and gap.view_tokens, the coarsest view, {cfg.gap.view_tokens}; start sharper, "
            "or use gap=fixed"
        )
    if a.window >= cfg.objective.updates:
        problems.append(
            f"gap.adaptive.window is {a.window} and objective.updates {cfg.objective.updates}: the run would end before another view is "
            "played; choose a smaller window, or use gap=fixed"
        )
    if "accuracy" not in cfg.reward.terms:
        problems.append("gap.mode is adaptive, but reward.terms has no term accuracy to follow; add the term, or use gap=fixed")
    if cfg.rollout.overlap:
        problems.append(
            "gap.mode is adaptive and rollout.overlap is true: the next views would be made before this update decides. Use one"
        )
    return problems


def train_problems(cfg: TrainConfig) -> list[str]:
    """What keeps a policy from being trained."""
    from focus.data.readers import TESTS

    problems = [*_play_problems(cfg), *overlap_problems(cfg), *forking_problems(cfg), *adaptive_problems(cfg)]
    if not cfg.name.strip(" ./") or cfg.name.startswith("/") or ".." in Path(cfg.name).parts:
        problems.append(f"name is {cfg.name!r}, which names no folder below outputs/; give the run one of its own: name=mine")
    if cfg.rollout.engine == "openai":
        problems.append("rollout.engine is openai: a served model can be evaluated and probed, not trained. Use rollout=kv")
    if cfg.gap.mode == "calibrated" and not (cfg.gap.table and os.path.isfile(cfg.gap.table)):
        problems.append(f"gap.mode is calibrated but gap.table ({cfg.gap.table or 'null'}) does not exist; `make calibrate` writes it")
    if cfg.objective.teach_groups == "accuracy" and "accuracy" not in cfg.reward.terms:
        problems.append("objective.teach_groups is accuracy, but reward.terms has no term of that name; choose all, or add the term")
    for name, term in cfg.reward.terms.items():
        reader = term.get("reader")
        if isinstance(reader, str) and not os.path.isdir(reader) and (reader.startswith("outputs/") or not HUB_NAME.fullmatch(reader)):
            problems.append(
                f"reward.terms.{name}.reader is {reader}, which is not a folder; give one in the Hugging Face layout, a hub name, "
                "embedded, policy (the trained one), or null"
            )
    sources = {cfg.data.source: f"data.source is {cfg.data.source}"}
    sources |= {name: f"data.mix names {name}" for name in cfg.data.mix}
    for name, seen in sources.items():
        if name in TESTS:
            problems.append(f"{seen}, which policies are tested on; train on another set")
    if cfg.evaluation.samples and cfg.data.source not in DRAWN and not cfg.evaluation.records:
        problems.append(
            f"data.source is {cfg.data.source}, so evaluation needs records of its own: set evaluation.records (make inspect "
            "DATA=... leaves some in outputs/data), or evaluation.samples=0"
        )
    return problems


def plan_problems(cfg: PlanConfig) -> list[str]:
    """A plan reads neither data nor weights and is made for another machine, so neither is asked for."""
    return [
        *policy_problems(cfg.policy, served=False),
        *rollout_problems(cfg.rollout, cfg.policy, [], here=False),
        *overlap_problems(cfg),
        *forking_problems(cfg),
        *adaptive_problems(cfg),
    ]


def probe_problems(cfg: ProbeConfig) -> list[str]:
    """What keeps a policy from being probed."""
    problems = [*_play_problems(cfg), *_forced_problems(cfg.rollout)]
    if not cfg.views or min(cfg.views) < 1:
        problems.append(f"views is {cfg.views}; name at least one budget, each of at least 1 token, e.g. views=[16,256]")
    if cfg.evaluation.samples == 0:
        problems.append("evaluation.samples is 0; a probe needs at least one question (null = all of a data set)")
    return problems


def evaluate_problems(cfg: EvaluateConfig) -> list[str]:
    """What keeps a policy from being evaluated."""
    problems = [*_play_problems(cfg), *_forced_problems(cfg.rollout)]
    if cfg.view.max_tokens is None and cfg.policy.dialect != "tiny":
        problems.append(
            "view.max_tokens is null; name the most visual tokens of the view, which a number means little without: 1024, 16384"
        )
    if cfg.view.min_tokens > (cfg.view.max_tokens or EMBEDDED_VIEW):
        problems.append(
            f"view.min_tokens is {cfg.view.min_tokens} and view.max_tokens {shown(cfg.view.max_tokens)}; they must be 1 or "
            "more, in this order"
        )
    if cfg.repeats > 1 and cfg.evaluation.temperature == 0:
        problems.append(f"repeats is {cfg.repeats} but evaluation.temperature is 0: all answers to a question would be equal. Use 1.0")
    if cfg.evaluation.samples == 0:
        problems.append("evaluation.samples is 0; an evaluation needs at least one question (null = all)")
    return problems


def audit_problems(cfg: AuditConfig) -> list[str]:
    """What keeps an agent from being audited. An arm that it can't play is left out, and the card says so."""
    from focus.data.readers import SETS

    if not cfg.policy.checkpoint.strip():  # nothing else can be judged
        return [
            "policy.checkpoint names no agent; name it, and the form of its calls: make audit AGENT=NAME "
            'ARGS="policy.dialect=deepeyes rollout.endpoint.url=http://localhost:8000/v1"'
        ]
    problems = [
        *policy_problems(cfg.policy, served=cfg.rollout.engine == "openai"),
        *data_problems(cfg.data),
        *judge_problems(cfg.judge),
        *rollout_problems(cfg.rollout, cfg.policy, []),
        *evaluation_problems(cfg.evaluation),
    ]
    if cfg.data.source != "scenes":
        problems.append(f"data.source is {cfg.data.source}; the audit chooses its sets by audit.made and audit.published")
    if "noise" not in cfg.evaluation.arms:
        problems.append("evaluation.arms lacks noise, on which the verdict rests; add it")
    if cfg.audit.views != sorted(set(cfg.audit.views)):
        problems.append(f"audit.views is {cfg.audit.views}; write them from the smallest to the largest: {sorted(set(cfg.audit.views))}")
    if not cfg.audit.made:
        problems.append("audit.made is [], but the verdict rests on the drawn sets; name scenes, pages or both")
    if unknown := [name for name in cfg.audit.published if name not in SETS]:
        problems.append(f"audit.published names {', '.join(unknown)}; choose from {', '.join(sorted(SETS))}")
    if cfg.audit.samples is None and not 0 < cfg.audit.effect <= cfg.audit.discordant:
        problems.append(
            f"audit.effect is {cfg.audit.effect:g} and audit.discordant {cfg.audit.discordant:g}: a loss needs at least so many questions "
            "that turn. Choose 0 < audit.effect <= audit.discordant"
        )
    return problems


def agent_problems(cfg: AgentConfig) -> list[str]:
    """What keeps a policy from being asked."""
    return policy_problems(cfg.policy, served=cfg.rollout.engine == "openai") + rollout_problems(cfg.rollout, cfg.policy, [])


def _picture_problems(image: str) -> list[str]:
    """A picture that is not there or has no readable header."""
    from focus.data.images.header import BadImage, image_size

    problems = file_problems("image", image, "name an image file")
    if image.strip() and not problems:
        try:
            image_size(Path(image))
        except BadImage as error:
            return [f"image is {image}, which can't be used: {error.reason}; name another image file"]
    return problems


def ask_problems(cfg: AskConfig) -> list[str]:
    """What keeps a question from being asked."""
    problems = agent_problems(cfg) + _picture_problems(cfg.image)
    if not cfg.image.strip():
        problems.append("image is empty; name an image file: image=photo.jpg (make ask IMAGE=photo.jpg)")
    if not cfg.question.strip():
        problems.append('question is empty; ask one: question="What is it?" (make ask QUESTION="What is it?")')
    return problems


def serve_problems(cfg: ServeConfig) -> list[str]:
    """What keeps a policy from being served."""
    problems = agent_problems(cfg)
    if cfg.host not in LOOPBACK and not os.environ.get(cfg.key_env):
        problems.append(
            f"host is {cfg.host}, which other machines may reach, and the environment variable {cfg.key_env} holds no key that they must "
            "send; set it, or use host=127.0.0.1"
        )
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        problems.append("the packages fastapi and uvicorn, which serve a policy, are not installed; run make env-lightbox")
    return problems


def questions_problems(cfg: QuestionsConfig) -> list[str]:
    """What keeps questions from being made."""
    problems = (
        []
        if Path(cfg.folder).is_dir()
        else [f"folder is {cfg.folder or 'empty'}, which is no folder; name one: make questions FROM=FOLDER"]
    )
    if not any(cfg.shares.model_dump().values()):
        problems.append("all shares are 0, so no kind of question is asked; set one of shares.* above 0")
    if find_spec("pypdfium2") is None:
        problems.append("the package pypdfium2, which reads PDFs, is not installed; run make env-questions")
    return problems


def lightbox_problems(cfg: LightboxConfig) -> list[str]:
    """What keeps the page from being served."""
    # outputs/ is not there before the first run, and the page then says so
    problems = [
        f"folders names {folder}, which is no folder" for folder in cfg.folders if folder != "outputs" and not Path(folder).is_dir()
    ]
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        problems.append("the packages fastapi and uvicorn, which serve the page, are not installed; run make env-lightbox")
    if cfg.data.source in DRAWN:
        problems.append(f"data.source is {cfg.data.source}, which has exact boxes; to look at the room Annotate, write some: make scenes")
    elif cfg.data.source != "records" or cfg.data.records:
        problems += data_problems(cfg.data)
    return problems


def calibrate_problems(cfg: CalibrateConfig) -> list[str]:
    """What keeps views from being chosen."""
    problems = policy_problems(cfg.policy, served=False) + data_problems(cfg.data) + judge_problems(cfg.judge)
    calibration = cfg.calibration
    if calibration.decoding == "vote" and calibration.vote_temperature <= 0:
        problems.append(
            f"calibration.vote_temperature is {calibration.vote_temperature}; votes drawn at 0 are all equal. Use 1.0, or decoding=greedy"
        )
    return problems


def inspect_problems(cfg: InspectConfig) -> list[str]:
    """What keeps a set from being read."""
    return data_problems(cfg.data)


# By schema; the others have no such check
CROSS_CHECKS: Mapping[type, Callable[[Any], list[str]]] = {
    TrainConfig: train_problems,
    PlanConfig: plan_problems,
    ProbeConfig: probe_problems,
    EvaluateConfig: evaluate_problems,
    AgentConfig: agent_problems,
    AskConfig: ask_problems,
    AuditConfig: audit_problems,
    ServeConfig: serve_problems,
    CalibrateConfig: calibrate_problems,
    InspectConfig: inspect_problems,
    QuestionsConfig: questions_problems,
    LightboxConfig: lightbox_problems,
}


def class_problems(cfg: Section) -> list[str]:
    """Sections whose class can't be constructed. Imports these classes, and with them PyTorch and Lightning."""
    if isinstance(cfg, PlanConfig):  # for another machine: only what the plan reads
        return target_problems("trainer", cfg.trainer)
    if isinstance(cfg, TrainConfig):
        return [
            *term_problems(cfg.reward.terms),
            *trainer_problems(cfg.trainer),
            *target_problems("logger", cfg.logger),
            *_alarm_problems(cfg),
        ]
    return []


def _alarm_problems(cfg: TrainConfig) -> list[str]:
    from focus.training.alarms import CollapseAlarms

    try:
        CollapseAlarms(**cfg.alarms.model_dump())
    except ValueError as error:
        return [str(error)]
    return []


def cautions(cfg: TrainConfig) -> list[str]:
    """What works, but not as one may expect: sentences to print before a run."""
    found = []
    if cfg.policy.dtype == "bfloat16" and not cfg.policy.lora_rank:
        found.append(
            "policy.dtype is bfloat16 and all weights learn: steps below its resolution are lost, at 1e-6 nearly all. Keep "
            "weights in float32 (policy.dtype=float32) and compute in bfloat16: trainer.precision=bf16-mixed, or trainer=fsdp"
        )
    if cfg.rollout.overlap and cfg.rollout.sampler_ratio_cap is None:
        found.append(
            "rollout.overlap is true, but rollout.sampler_ratio_cap is null: nothing corrects for rollouts that come from the weights of "
            "one update before. Set rollout.sampler_ratio_cap=2.0"
        )
    if cfg.policy.dialect == "qwen3_5" and cfg.rollout.engine == "vllm":
        found.append(
            "No test has run Qwen3.5 under vLLM. rollout=kv is tested; with rollout=vllm look at objective/mismatch_mean in the first "
            "update, which is near 0 where sampler and trainer agree"
        )
    return found + crowded(cfg) + _unshared_prompts(cfg)


def _unshared_prompts(cfg: TrainConfig) -> list[str]:
    """A prompt beside which one forward of the update has no room for two siblings, so that it is passed again for each."""
    view, budget, siblings = max(view_budgets(cfg)), cfg.objective.tokens_per_forward, cfg.rollout.rollouts_per_question
    own = min(cfg.rollout.max_crops, 1) * cfg.rollout.crop_tokens + 1  # least of a rollout that crops once
    room = max(0, budget - view) // own
    if room >= 2:
        return []
    whole = -(-(view + siblings * own) // BUDGET_STEP) * BUDGET_STEP  # rounded up, for the words
    return [
        f"A view of {view:,} tokens leaves no room for two siblings in objective.tokens_per_forward={budget}: in an update the prompt of "
        f"its group passes the network {siblings} times instead of once. Set objective.tokens_per_forward={whole}, if make plan says that "
        "it fits"
    ]
