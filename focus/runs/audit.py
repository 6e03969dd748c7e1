"""Does this agent look at what it crops? One protocol, one card. `make audit AGENT=...`, or `focus.audit(agent)`.

It plays the probe (E10) on drawn images at three views, and on published sets whose files are at hand. A
served model's replies are kept, request by request, so an audit that was interrupted goes on where it was.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from focus import config
from focus.build import audited_samples, build_evaluator, build_judge, connect, load_evaluated, rollout_limits
from focus.config.command_line import composed_settings, quoted, settings_of
from focus.config.identity import graded_by, measurement
from focus.config.schema import AuditConfig, DataConfig
from focus.data.identity import questions_digest
from focus.data.sample import Limits, Sample
from focus.data.source import open_source
from focus.evaluation.arms import can_play
from focus.evaluation.audit import Cost, endings, expected_cost, forms, pooled, questions_needed, shown_tokens
from focus.evaluation.kept import About, Kept
from focus.evaluation.measure import measure
from focus.evaluation.outcome import Outcome, load_outcomes, refuse_other_measurement, save_outcomes
from focus.gap import Gap, Mode
from focus.grading.grader import Grader
from focus.model.dialect import dialect_names, read_dialect
from focus.report.audit_card import Agent, Card, Protocol, Spent, measured
from focus.report.audit_page import write_card
from focus.report.headline import evaluated_text, headline
from focus.report.provenance import call_of, how_made
from focus.report.verdict import CONDUCT_RULE, Conduct, conduct_sentence, contradicted_sentence, judge_conduct
from focus.rollout.engine import Engine, Model
from focus.rollout.loop import RolloutLimits, begin, play, seed_of
from focus.rollout.served import MIN_UNCLOSED, OpenAIEngine, PrefillIgnored, Served, check_view_tokens
from focus.rollout.trajectory import Trajectory
from focus.runtime.chats import Called, KeptReplies
from focus.runtime.endpoint import Outage
from focus.runtime.files import atomic_write, json_text, read_json
from focus.runtime.progress import Progress, chunks

ALIKE = "answered alike"  # of facts.json: requests that were sent twice, and how many of them got the same reply
# Share of the kept requests that may get another reply, and the same one twice, when an audit goes on. A server that computes its requests
# together may turn an answer at temperature 0 too
OTHERWISE = 0.25
WHY = {"gt": "has a box", "conflict": "has an image that is drawn here"}  # what an arm needs of a question


def run(composed: DictConfig) -> None:
    """Play the protocol and write the card.

    Raises ValueError if the server refuses too many questions; the card is written all the same, without a verdict.
    """
    cfg = config.validated(composed, AuditConfig)
    console = Console(markup=False, soft_wrap=True)  # texts are printed as they are; paths are not wrapped
    output = output_of(cfg)
    p = cfg.policy
    console.print(
        headline("audit", evaluated_text(p.checkpoint, cfg.rollout.engine, cfg.threads), f"protocol {cfg.audit.version}", str(output))
    )
    with config.alone(output):
        card = _audited(cfg, None, output, console, None)
    console.print(*filter(None, (card.verdict, card.contradicted)))
    console.print(f"page: {output / 'card.html'}   picture: {output / 'card.png'}   card: {output / 'card.json'}")
    if card.conduct is Conduct.NONE:
        raise ValueError(f"{card.verdict} The reasons are above. Replies are kept: the same command sends only what was refused")


def audit(
    agent: Callable[[list[dict[str, Any]]], str] | str,
    *overrides: str,
    dialect: str,
    name: str | None = None,
    output: str | Path | None = None,
) -> Card:
    """Audit an agent from Python; returns the card and writes it to `output` (default: outputs/audit/<name>).

    `agent` is a function from chat messages (OpenAI's format, images as data URLs) to the text of the next
    turn, or the URL of an OpenAI-compatible server. `dialect` says how it writes its calls: a name of
    conf/dialect, or the path of a YAML file. `name` is the model's name on the server, or that on the card.
    Replies are kept under the name: an agent that changed needs another name or another `output`.
    `overrides` are settings of conf/audit.yaml, as on the command line: `"audit.views=[1024]"`. Raises
    ValueError for settings that can't work, for a server that can't be reached, and for a folder that holds
    replies of another agent.
    """
    served = isinstance(agent, str)
    if not served and not callable(agent):
        raise ValueError(f"agent is {agent!r}; give a function from chat messages to text, or the URL of a server")
    name = name or (None if served else getattr(agent, "__name__", type(agent).__name__))
    if name is None:
        raise ValueError("name is missing: give the name under which the server knows the model")
    chosen = [f"policy.checkpoint={quoted(name)}", f"policy.dialect={quoted(dialect)}", "rollout=openai"]
    chosen += [f"rollout.endpoint.url={quoted(agent)}"] if isinstance(agent, str) else []
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        composed = settings_of(composed_settings("audit", [*chosen, *overrides], AuditConfig))
    cfg = config.validated(composed, AuditConfig, here=False)
    folder = Path(output) if output else output_of(cfg)
    call = call_of("audit", agent if isinstance(agent, str) else None, overrides, dialect=dialect, name=name)
    with config.alone(folder):
        return _audited(cfg, None if isinstance(agent, str) else Called(agent, name), folder, Console(quiet=True), call)


def output_of(cfg: AuditConfig) -> Path:
    """`audit` beside a policy folder; outputs/audit/NAME for an agent that is no folder."""
    agent = Path(cfg.policy.checkpoint)
    weights_here = cfg.rollout.engine != "openai" and agent.is_dir()
    beside = agent.parent / "audit" if weights_here else Path("outputs/audit") / agent.name
    return Path(cfg.output) if cfg.output else beside.with_name(beside.name + "_forced" * cfg.rollout.force_first_crop)


@dataclass
class _Audit:
    """One audit while it is played. `kept`: the replies of a served agent; None for weights that run here. `output`: the card's folder."""

    cfg: AuditConfig
    model: Model
    engine: Engine
    kept: KeptReplies | None
    output: Path
    console: Console
    left_out: list[str]

    @property
    def opening(self) -> str:
        """What the first turn of the arm `own` starts with."""
        return self.model.dialect.call[0] if self.cfg.rollout.force_first_crop else ""

    def arms_of(self, name: str, samples: Sequence[Sample], arms: Sequence[str]) -> list[str]:
        """The arms that some question of a set can have."""
        lacking = [arm for arm in arms if not any(can_play(arm, samples[i]) for i in range(len(samples)))]
        self.left_out += [f"the arm {arm} of {name}: no question {WHY[arm]}" for arm in lacking]
        return [arm for arm in arms if arm not in lacking]

    def common_arms(self, samples: Sequence[Sample]) -> list[str]:
        """The arms that this agent can play. Raises ValueError if its first call is to be forced and can't be."""
        if self.opening and self.kept and (why := self._ignores(self.opening, self.kept, samples)):
            raise ValueError(
                f"rollout.force_first_crop is true, which begins the agent's first turn with a call, but {why}; serve the model with vLLM "
                "or SGLang, which continue a turn, or leave rollout.force_first_crop=false"
            )
        arms: list[str] = [arm for arm in dict.fromkeys(self.cfg.evaluation.arms) if arm != "own"]
        if "no_tool" in arms and self.model.dialect.system_without_tool is None:
            self.left_out.append(f"the arm no_tool: the dialect {self.model.dialect.name} has no prompt without the tool")
            arms.remove("no_tool")
        for arm in {"tool_free", "forced"} & {*arms}:
            if self.kept and (why := self._ignores(self.model.dialect.answer[0], self.kept, samples)):
                self.left_out.append(f"the arm {arm}: {why}")
                arms.remove(arm)
        return arms

    def _ignores(self, prefill: str, kept: KeptReplies, samples: Sequence[Sample]) -> str | None:
        """Why a served agent can't be made to begin its turn so; None if it can."""
        if isinstance(kept.chat, Called):
            return "a Python function begins its own turns"
        try:
            self._first(samples, MIN_UNCLOSED, prefill)
        except PrefillIgnored:
            return "the server starts a turn again instead of continuing it"
        return None

    @property
    def _limits(self) -> RolloutLimits:
        return rollout_limits(self.cfg, self.cfg.evaluation.temperature)

    def _first(self, samples: Sequence[Sample], count: int, prefill: str) -> list[Trajectory]:
        """The conversations about the first questions at the smallest view, with crops of its own."""
        gap, played = Gap(Mode.FIXED, self.cfg.audit.views[0], self.model.token_px), []
        for chunk in chunks(samples[:count], max(MIN_UNCLOSED, self.cfg.evaluation.questions_per_forward), None):
            opened = [
                begin(self.model, sample, *gap.view_of(sample, sample.open()), [seed_of(self.cfg.seed, sample.id)], prefill)[0]
                for sample in chunk
            ]
            played += play(self.model, self.engine, opened, self._limits)
            for t in opened:
                t.source.release()
        return played

    def again(self, samples: Sequence[Sample], found: bool = False) -> tuple[int, int, int]:
        """Send `audit.repeated` requests of the first questions again, each of a turn with its own crops: `KeptReplies.again`."""
        assert self.kept and isinstance(self.engine, OpenAIEngine)
        count, sampling = self.cfg.audit.repeated, self._limits.sampling
        sent = [request for t in self._first(samples, count, self.opening) for request in self.engine.sent_for(t, sampling)]
        return self.kept.again(sent[:count], found)

    def refuse_other_agent(self, samples: Sequence[Sample]) -> tuple[int, int] | None:
        """Of an audit that goes on: how many kept requests were sent again, and how many got the same reply; None if none was sent.

        Raises ValueError if more than `OTHERWISE` of them got another reply.
        """
        asked, alike, otherwise = self.again(samples, found=True)
        if otherwise > OTHERWISE * asked:
            raise ValueError(
                f"this agent answers otherwise than its kept replies: of {asked} requests that were sent again, {otherwise} got another "
                f"reply, and the same one twice. Another agent has this name now: remove {self.output}, or give this one a folder of its "
                "own (output=FOLDER). audit.repeated=0 sends none again"
            )
        if alike < asked:
            self.console.print(f"{asked - alike} of {asked} kept requests got another reply now. The card says it too")
        return (asked, alike) if asked else None

    def spent(self) -> tuple[int, int, int, float]:
        """Requests, prompt tokens and sampled tokens so far, and the time in seconds."""
        kept = self.kept
        return (*((kept.requests, kept.prompt_tokens_seen, kept.sampled_tokens) if kept else (0, 0, 0)), time.monotonic())

    def measure(
        self, samples: Sequence[Sample], view: int, arms: Sequence[str], grader: Grader, progress: Progress, name: str
    ) -> tuple[Outcome, dict[str, Any]]:
        """One set at one view: the outcome, and the forms and ends of its conversations.

        Originals, views and crops of a few questions are in memory at one time.
        """
        gap = Gap(Mode.FIXED, view, self.model.token_px)
        evaluator = build_evaluator(self.cfg, self.model, self.engine, gap, grader, arms, self.opening)
        table = Kept(self.output, About("evaluation", None, "", f"{name} {view} tokens"), self.cfg.kept_mib)
        others = [read_dialect(each) for each in dialect_names()]
        parts: list[Outcome] = []
        shapes: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        with progress.measurement(f"{name} at {view:,} tokens") as advance:
            for chunk in chunks(samples, evaluator.questions_per_forward, advance):
                outcome, own = measure(evaluator, chunk, None, table)
                parts.append(outcome)
                shapes += forms(own, self.model.dialect, others)
                ends.update(endings(own))
        return pooled(parts), {"forms": dict(shapes), "endings": dict(ends)}


def _audited(cfg: AuditConfig, called: Called | None, output: Path, console: Console, call: str | None) -> Card:
    """`called`: the agent that is a function. `call`: what was called from Python; None for a command."""
    torch.set_num_threads(cfg.threads)
    started, a = time.monotonic(), cfg.audit
    kept = None
    if cfg.rollout.engine == "openai":
        assert cfg.rollout.endpoint is not None  # checked with rollout.engine
        kept = KeptReplies(called or connect(cfg.rollout.endpoint), output / "requests.jsonl")
        dialect = read_dialect(cfg.policy.dialect, cfg.policy.prompts)
        this = _Audit(cfg, Served(kept, dialect), OpenAIEngine(kept, dialect), kept, output, console, [])
    else:
        this = _Audit(cfg, *load_evaluated(cfg), None, output, console, [])
    count = a.samples or questions_needed(a.effect, a.discordant, a.power, a.alpha)
    sets: dict[str, Sequence[Sample]] = {source: audited_samples(cfg, source, -(-count // len(a.made))) for source in a.made}
    sets |= _published(cfg, count, this.left_out)
    first = next(iter(sets.values()))
    try:
        common = this.common_arms(first)
        arms = {name: this.arms_of(name, samples, common) for name, samples in sets.items()}
        digest = hashlib.blake2b(" ".join(questions_digest(samples) for samples in sets.values()).encode(), digest_size=8).hexdigest()
        identity = _identity(cfg, this.model, arms, digest)
        refuse_other_measurement(output / "outcomes.json", identity, "an audit", "questions, arms or first calls")
        _print_cost(cfg, {name: len(samples) for name, samples in sets.items()}, arms, this.model.token_px, console)
        outcomes, facts = _played(this, sets, arms, identity)
    except Outage as outage:
        where = f"{kept.path} keeps what was answered; the same {'call' if called else 'command'} goes on from there" if kept else ""
        raise Outage(". ".join(filter(None, [str(outage), where])), outage.status) from outage
    together = {view: pooled([outcomes[f"{source} {view}"] for source in a.made]) for view in map(str, a.views)}
    e = cfg.evaluation
    entries = [
        measured(name, outcomes[f"{name} {view}"], e.resamples, facts[f"{name} {view}"]["view_seen"]) for name in sets for view in a.views
    ]
    refused = max(entry.refused for entry in entries)
    conduct = Conduct.NONE if refused > cfg.served.refused else judge_conduct(list(together.values()), e.resamples)
    parts = [facts[f"{name} {view}"] for name in sets for view in a.views]
    shapes, ends = (sum((Counter(part[kind]) for part in parts), Counter()) for kind in ("forms", "endings"))
    requests, prompt_tokens, sampled_tokens, seconds = (sum(values) for values in zip(*(part["spent"] for part in parts), strict=True))
    card = Card(
        conduct=conduct,
        verdict=_verdict(this, conduct, list(together.values()), refused, shapes),
        contradicted=None if conduct is Conduct.NONE else contradicted_sentence(list(together.values()), e.resamples),
        rule=CONDUCT_RULE,
        protocol=Protocol(
            version=a.version,
            views=list(a.views),
            sets={name: len(samples) for name, samples in sets.items()},
            sides_px=list(a.sides_px),
            effect=a.effect,
            power=a.power,
            questions=digest,
            left_out=this.left_out,
            changed=_changed(cfg),
        ),
        agent=_agent(cfg, this, facts.get(ALIKE)),
        together=[measured("together", outcome, e.resamples) for outcome in together.values()],
        measured=entries,
        forms={form: round(number / shapes.total(), 5) for form, number in shapes.most_common()},
        endings=dict(ends.most_common()),
        spent=Spent(requests=requests, prompt_tokens=prompt_tokens, sampled_tokens=sampled_tokens, seconds=round(seconds, 1)),
        made=how_made(time.monotonic() - started, call),
    )
    write_card(card, output)
    return card


def _verdict(this: _Audit, conduct: Conduct, views: Sequence[Outcome], refused: float, shapes: Counter[str]) -> str:
    """The sentence of the verdict. `refused`: the largest share of a set that the agent refused. `shapes`: forms of its turns."""
    cfg, is_function = this.cfg, this.kept is not None and isinstance(this.kept.chat, Called)
    if conduct is Conduct.NONE:
        did = "function returned an empty turn in" if is_function else "server refused"
        return (
            f"No verdict: the {did} {100 * refused:.0f} % of the questions of a set, which may be at most "
            f"{100 * cfg.served.refused:.0f} % (served.refused)."
        )
    said = conduct_sentence(conduct, views, cfg.evaluation.resamples)
    if cfg.rollout.force_first_crop:
        return f"Its first call was forced. {said}"
    if conduct is not Conduct.NEVER and views[0].mean("called") > 0:
        return said
    [(form, count)] = shapes.most_common(1) or [("answer", 0)]
    if form != "answer":  # what it said is read as no call
        name = form.removeprefix("call of ")
        other = f": try policy.dialect={name}" if name != form else f", in the form of policy.dialect={this.model.dialect.name}"
        return f"{said} Of its turns {100 * count / shapes.total():.0f} % were: {form}{other}."
    served = " of a served model or of weights" * is_function
    return f"{said} What it would do with a crop shows an audit{served} with rollout.force_first_crop=true."


def _changed(cfg: AuditConfig) -> list[str]:
    """The settings that differ from those of the protocol's version. The audit knows one version."""
    version = OmegaConf.to_container(OmegaConf.load(config.CONF / "audit/v1.yaml"))
    assert isinstance(version, dict)
    return [f"audit.{key}={_spelt(value)}" for key, value in cfg.audit.model_dump().items() if value != version[key]]


def _spelt(value: Any) -> str:
    """As on the command line: `null`, `[scenes, pages]`."""
    return json.dumps(value).replace('"', "")


def _published(cfg: AuditConfig, count: int, left_out: list[str]) -> dict[str, Sequence[Sample]]:
    """The first `count` questions of every published set whose files are at hand."""
    found: dict[str, Sequence[Sample]] = {}
    for name in cfg.audit.published:
        # A command has initialised Hydra, a call from Python has not
        ready = GlobalHydra.instance().is_initialized()
        with nullcontext() if ready else initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
            data = DataConfig.model_validate(OmegaConf.to_container(compose("audit", [f"data={name}"]).data, resolve=True))
        if data.root and Path(data.root).is_dir():
            limits = Limits(data.max_question_chars, data.max_options)
            found[name] = open_source(name, None, data.root, kept=Path(data.cache_dir), limits=limits)[:count]
        else:
            left_out.append(f"{name}: no files in {data.root}")
    return found


def _print_cost(cfg: AuditConfig, counts: Mapping[str, int], arms: Mapping[str, Sequence[str]], token_px: int, console: Console) -> None:
    """What the audit will ask for, before it asks. Views of published images count as full."""
    r, a = cfg.rollout, cfg.audit
    unit = "requests" if r.engine == "openai" else "turns"  # weights that run here are sent no requests

    def cost(crops: int) -> Cost:
        parts = [
            expected_cost(
                n, ["own", *arms[name]], shown_tokens(view, a.sides_px, token_px) if name in a.made else view, r.crop_tokens, crops
            )
            for name, n in counts.items()
            for view in a.views
        ]
        return sum(parts, Cost(0, 0, 0))

    one, most = cost(1), cost(cfg.rollout.max_crops)
    asked = ", ".join(f"{count:,} {name.removesuffix('s') if count == 1 and name in a.made else name}" for name, count in counts.items())
    console.print(
        f"{asked} at {len(a.views)} view{'s' * (len(a.views) != 1)}. With one crop a question: about {one.requests:,} {unit} and "
        f"{_amount(one.prompt_tokens)} prompt tokens. At most {most.requests:,} and {_amount(most.prompt_tokens)}"
    )


def _amount(tokens: int) -> str:
    """About so many: in millions, below one million in thousands."""
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{max(1, round(tokens / 1e3)):,} k"


def _identity(cfg: AuditConfig, model: Model, arms: Mapping[str, Sequence[str]], digest: str) -> str:
    """What tells this audit from another one in the same folder. `digest`: a hash of the questions."""
    settings = cfg.model_dump()
    played = f"{digest} {[sorted(each) for each in arms.values()]}{' forced' * cfg.rollout.force_first_crop}"
    asked = hashlib.blake2b(played.encode(), digest_size=8).hexdigest()
    return measurement(settings, model.weights_hash(), asked) + graded_by(settings)


def _played(
    this: _Audit, sets: Mapping[str, Sequence[Sample]], arms: Mapping[str, Sequence[str]], identity: str
) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """The outcome and the facts of every set at every view, by `SET VIEW`. What an earlier start measured is kept."""
    cfg, first = this.cfg, next(iter(sets.values()))
    path, facts_path = this.output / "outcomes.json", this.output / "facts.json"
    with config.writable(str(this.output)):
        outcomes = load_outcomes(path, identity)
        save_outcomes(outcomes, path, identity)
    facts: dict[str, Any] = read_json(facts_path) if outcomes and facts_path.is_file() else {}
    alike = this.refuse_other_agent(first) if this.kept and this.kept.resumed else None
    grader = Grader(build_judge(cfg.judge))
    keys = [(name, view) for name in sets for view in cfg.audit.views]
    with Progress(this.console, measurements=len(keys)) as progress:
        for name, view in keys:
            key = f"{name} {view}"
            if key in outcomes and key in facts:
                progress.skip(1)
                continue
            seen: dict[str, int | None] = {}
            if isinstance(this.model, Served) and isinstance(this.engine, OpenAIEngine):
                gap = Gap(Mode.FIXED, view, this.model.token_px)
                seen = check_view_tokens(this.model, this.engine, gap, sets[name], cfg.served.view_deviation)
            before = this.spent()
            outcomes[key], found = this.measure(sets[name], view, arms[name], grader, progress, name)
            spent = [after - earlier for after, earlier in zip(this.spent(), before, strict=True)]
            facts[key] = found | {"view_seen": seen, "spent": spent}
            answered = {key: outcome for key, outcome in outcomes.items() if not outcome.mean("refused") > cfg.served.refused}
            save_outcomes(answered, path, identity)  # what was refused is asked again by the next start
            _write(facts_path, facts)
    if this.kept and cfg.audit.repeated > 0:
        facts[ALIKE] = alike or this.again(first)[:2]
        _write(facts_path, facts)
    return outcomes, facts


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json_text(facts))


def _agent(cfg: AuditConfig, this: _Audit, alike: tuple[int, int] | None) -> Agent:
    r, model, record = cfg.rollout, this.model, this.model.dialect.record
    return Agent(
        name=cfg.policy.checkpoint,
        engine=this.kept.url if this.kept and isinstance(this.kept.chat, Called) else r.engine,
        weights=model.weights_hash(),
        dialect=model.dialect.name,
        words=record["words"],
        prompts_hash=record["hash"],
        notes=record["notes"],
        temperature=cfg.evaluation.temperature,
        max_crops=min(r.max_crops, model.dialect.max_crops or r.max_crops),
        crop_tokens=r.crop_tokens,
        tokens_per_turn=r.tokens_per_turn,
        first_call_forced=r.force_first_crop,
        judge=cfg.judge.model if cfg.judge.url else None,
        answered_alike=alike,
    )
