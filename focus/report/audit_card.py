"""The card of an audit: `card.json`, under a schema with a version."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from focus.evaluation.audit import Interval, chain
from focus.evaluation.outcome import DIFFERENCES, SAYS, Outcome
from focus.report.verdict import Conduct

SCHEMA = Path(__file__).parent / "audit_card.v1.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
# What page and picture show of a measurement, in this order: metric, label, meaning
ACCURACIES = {
    "own": "its own crops",
    "noise": "noise in their place",
    "blank": "grey in their place",
    "elsewhere": "another region in their place",
    "gt": "the annotated crop",
    "tool_free": "the answer forced, no crop",
    "no_tool": "no tool offered",
}
STEPS = {
    "calls": "calls: it makes a crop",
    "hits": "hits: the crops cover the evidence",
    "reads": "reads: its answer is then right",
    "uses": "uses: noise makes that answer wrong",
}
SAID = {"conflict_crop": "what the crop says", "conflict_whole": "what the view says", "conflict_neither": "neither"}
LOST = {"D_noise": "by noise", "D_blank": "by grey", "D_elsewhere": "by another region"}


class Part(BaseModel):
    """A part of a card. It takes no key that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class Protocol(Part):
    """What was asked."""

    version: int
    views: list[int] = Field(description="budgets of the view, in merged visual tokens")
    sets: dict[str, int] = Field(description="questions of each set")
    sides_px: list[int] = Field(description="sides of the drawn images")
    effect: float = Field(description="the loss of accuracy that the sample size was chosen to find")
    power: float
    questions: str = Field(description="a hash of all questions")
    left_out: list[str] = Field(description="sets and arms that were not played, and why")
    changed: list[str] = Field(description="settings that differ from those of this version: its cards don't compare with others")


class Agent(Part):
    """Who was asked, and how."""

    name: str
    engine: str
    weights: str = Field(
        description="a hash of the weights; of a served model its name and the root that its server lists; of a function a hash of its code"
    )
    dialect: str
    words: str = Field(description="own words, dialect, or the file of the agent's own prompts")
    prompts_hash: str
    notes: list[str]
    temperature: float
    max_crops: int
    crop_tokens: int
    tokens_per_turn: int
    first_call_forced: bool = Field(default=False, description="its first turn began with a call that was put into its mouth")
    judge: str | None
    answered_alike: tuple[int, int] | None = Field(description="of so many requests that were sent twice, so many got the same reply")


class Spent(Part):
    """What it took."""

    requests: int
    prompt_tokens: int = Field(description="as the server counts; 0 if it does not")
    sampled_tokens: int
    seconds: float


class Measured(Part):
    """One set at one view. Shares are 0 to 1; an interval is [mean, low, high] with 95 % over images."""

    set: str
    view_tokens: int
    questions: int
    accuracy: dict[str, Interval] = Field(description="by arm")
    dependence: dict[str, Interval] = Field(description="accuracy lost, by what replaced the crops; D_noise is the verdict's")
    steps: dict[str, Interval] = Field(description="calls, hits, reads, uses")
    conflict: dict[str, Interval] = Field(description="what it says where crop and view contradict each other; empty without that arm")
    cost: dict[str, float] = Field(description="visual and sampled tokens of a question in the arm own")
    view_seen: dict[str, int | None] = Field(description="visual tokens of a view as expected and as the server counts them")
    unreadable: int
    refused: float


class Card(Part):
    """The result of an audit."""

    schema_: Literal["focus.audit.card/1"] = Field(default="focus.audit.card/1", alias="schema")
    conduct: Conduct
    verdict: str
    contradicted: str | None = Field(
        description="whose answer it gives where its crop contradicts the view, at the largest view; null: no such"
    )
    rule: str
    protocol: Protocol
    agent: Agent
    together: list[Measured] = Field(description="the drawn sets together, one entry a view: the verdict rests on them")
    measured: list[Measured] = Field(description="every set at every view")
    forms: dict[str, float] = Field(description="share of the turns that had this form")
    endings: dict[str, int] = Field(description="conversations that ended so, in the arm own")
    spent: Spent
    made: dict[str, Any] = Field(description="date, command or call, commit, versions, machine, seconds")

    def text(self) -> str:
        """The content of `card.json`."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


def schema_text() -> str:
    """The JSON schema of `card.json`, the content of `SCHEMA`: what make audit writes, so every key is required."""
    schema = Card.model_json_schema(mode="serialization")
    return json.dumps({"$schema": DRAFT, "$id": "urn:focus:audit-card:1"} | schema, indent=1) + "\n"


def read_card(path: Path) -> Card:
    """The card in a file. Raises ValueError for a file that is none."""
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(
            f"{path} is no card of version 1 of an audit ({where}: {first['msg']}); give a card.json that make audit wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read ({error}); give a card.json that make audit wrote") from error


def measured(name: str, outcome: Outcome, resamples: int, view_seen: Mapping[str, int | None] | None = None) -> Measured:
    """The entry of one measurement."""

    def intervals(metrics: Sequence[str]) -> dict[str, Interval]:
        found = {metric: outcome.interval(metric, resamples) for metric in metrics}
        return {metric: rounded(interval) for metric, interval in found.items() if not math.isnan(interval[0])}

    return Measured(
        set=name,
        view_tokens=outcome.view_tokens,
        questions=len(outcome.groups),
        accuracy=intervals(list(ACCURACIES)),
        dependence=intervals([difference for difference in DIFFERENCES if difference.startswith("D_")]),
        steps={step: rounded(interval) for step, interval in chain(outcome, resamples).items()},
        conflict=intervals(SAYS),
        cost={
            metric: round(outcome.mean(metric), 1) for metric in ("visual_tokens", "sampled_tokens") if not math.isnan(outcome.mean(metric))
        },
        view_seen=dict(view_seen or {}),
        unreadable=len(outcome.broken),
        refused=round(outcome.mean("refused"), 5) if not math.isnan(outcome.mean("refused")) else 0.0,
    )


def rounded(interval: Interval) -> Interval:
    """With the five digits that a card has."""
    mean, low, high = (round(value, 5) for value in interval)
    return mean, low, high


def conduct_text(card: Card) -> str:
    """The conduct in a few words, and whether the agent called by itself."""
    return card.conduct.value + ", its first call forced" * card.agent.first_call_forced


def protocol_text(protocol: Protocol) -> str:
    """The version, and what was asked otherwise."""
    return f"version {protocol.version}" + (f", but for {', '.join(protocol.changed)}" if protocol.changed else "")


def dialect_text(agent: Agent) -> str:
    """The form of its calls, and with whose words it was asked."""
    return f"{agent.dialect}, asked with {'its texts' if agent.words == 'dialect' else agent.words}, hash {agent.prompts_hash}"


def crops_text(agent: Agent) -> str:
    """How many crops it may make, and of which size."""
    return f"at most {agent.max_crops} crop{'s' * (agent.max_crops != 1)} of {agent.crop_tokens:,} tokens"
