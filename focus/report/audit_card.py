"""The card of an audit: `card.json` under a schema with a version, one page, and one picture for a README."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from focus.evaluation.audit import Interval, chain
from focus.evaluation.outcome import DIFFERENCES, SAYS, Outcome
from focus.report.html import write_html
from focus.report.verdict import Conduct
from focus.runtime import files

SCHEMA = Path(__file__).parent / "audit_card.v1.json"
# What the page shows of a measurement, in this order: metric, label, meaning
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
COLOURS = ("#c2410c", "#1f6f8b", "#6b4f9a", "#3f7d4a")


class Part(BaseModel):
    """A part of a card. It takes no key that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    weights: str = Field(description="a hash of the weights; of a served model, its name")
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
    conduct: Conduct | None = Field(description="null: nothing was measured that says it")
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
    made: dict[str, Any] = Field(description="date, command, commit, versions, machine")

    def text(self) -> str:
        """The content of `card.json`."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


def schema_text() -> str:
    """The JSON schema of `card.json`, the content of `SCHEMA`."""
    return json.dumps(Card.model_json_schema(), indent=1) + "\n"


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


def write_card(card: Card, folder: Path) -> None:
    """Write card.json, card.html and card.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(folder / "card.json") as partial:
        partial.write_text(card.text(), encoding="utf-8")
    draw_card(card, folder / "card.png")
    write_html(folder / "card.html", "audit.html", title=f"Audit of {card.agent.name}", cards=[shown(card)], compared=False)


def write_comparison(cards: Sequence[Card], path: Path) -> None:
    """Two cards side by side on one page. Raises ValueError where they were measured by different protocols."""
    first, second = (card.protocol for card in cards)
    differ = [name for name in ("version", "views", "questions") if getattr(first, name) != getattr(second, name)]
    if differ:
        raise ValueError(
            f"these cards don't compare: they differ in {' and '.join(differ)} of the protocol. Audit both agents with the same protocol, "
            "seed and sets"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    title = " and ".join(card.agent.name for card in cards)
    write_html(path, "audit.html", title=f"Audits of {title}", cards=[shown(card) for card in cards], compared=True)


def shown(card: Card) -> dict[str, Any]:
    """What the template shows of a card."""
    return {
        "name": card.agent.name,
        "conduct": conduct_text(card),
        "good": card.conduct in (Conduct.LOOKS, Conduct.WHEN_NEEDED),
        "bad": card.conduct in (Conduct.FOR_SHOW, Conduct.NEVER),
        "verdict": card.verdict,
        "contradicted": card.contradicted,
        "rule": card.rule,
        "tables": [
            {
                "name": name,
                "views": [f"{entry.view_tokens:,}" for entry in entries],
                "questions": entries[0].questions,
                "rows": _rows(entries),
            }
            for name, entries in _by_set(card).items()
        ],
        "facts": _facts(card),
        "notes": [*card.agent.notes, *card.protocol.left_out],
        "made": card.made,
    }


def conduct_text(card: Card) -> str:
    """The conduct in a few words, and whether the agent called by itself."""
    return (card.conduct.value if card.conduct else "no verdict") + ", its first call forced" * card.agent.first_call_forced


def _by_set(card: Card) -> dict[str, list[Measured]]:
    """The measurements of each set; the drawn sets together come first."""
    sets: dict[str, list[Measured]] = {"drawn sets together": list(card.together)}
    for entry in card.measured:
        sets.setdefault(entry.set, []).append(entry)
    return sets


def _rows(entries: Sequence[Measured]) -> list[dict[str, Any]]:
    """The rows of one table: a group's name, or a label with a cell for each view."""
    rows: list[dict[str, Any]] = []
    groups: tuple[tuple[str, str, Mapping[str, str]], ...] = (
        ("Right answers, %", "accuracy", ACCURACIES),
        (
            "Lost when crops are replaced, points",
            "dependence",
            {"D_noise": "by noise", "D_blank": "by grey", "D_elsewhere": "by another region"},
        ),
        ("From question to evidence, %", "steps", STEPS),
        ("Where crop and view contradict each other it says, %", "conflict", SAID),
    )
    for title, part, labels in groups:
        of_group = [
            {"label": label, "cells": [_cell(getattr(entry, part).get(key)) for entry in entries]}
            for key, label in labels.items()
            if any(key in getattr(entry, part) for entry in entries)
        ]
        rows += [{"title": title}, *of_group] if of_group else []
    return rows


def _cell(interval: Interval | None) -> dict[str, str] | None:
    if interval is None:
        return None
    mean, low, high = (100 * value for value in interval)
    return {"mean": f"{mean:.1f}", "interval": f"{low:.1f} to {high:.1f}"}


def _sample_size(protocol: Protocol) -> str:
    """What it finds, where it was chosen for that."""
    if any(change.startswith("audit.samples=") for change in protocol.changed):
        return f"set by audit.samples: not the one that finds a loss of {100 * protocol.effect:.0f} points"
    return f"finds a loss of {100 * protocol.effect:.0f} points with probability {protocol.power:g}"


def _facts(card: Card) -> list[tuple[str, str]]:
    """The facts of the prompt, the server and the cost, as label and value."""
    agent, spent, questions = card.agent, card.spent, sum(card.protocol.sets.values()) * len(card.protocol.views)
    crops = f"at most {agent.max_crops} crop{'s' * (agent.max_crops != 1)}{', the first one forced' * agent.first_call_forced}"
    facts = [
        ("dialect", f"{agent.dialect}, asked with {'its texts' if agent.words == 'dialect' else agent.words}, hash {agent.prompts_hash}"),
        ("engine", f"{agent.engine}, temperature {agent.temperature:g}, {crops} of {agent.crop_tokens:,} tokens"),
        ("protocol", protocol_text(card.protocol)),
        ("questions", ", ".join(f"{count:,} {name}" for name, count in card.protocol.sets.items())),
        ("sample size", _sample_size(card.protocol)),
        ("graded by", f"rules, then {agent.judge}" if agent.judge else "rules alone"),
    ]
    if seen := [entry for entry in card.measured if entry.view_seen]:
        counted = [f"{entry.view_seen['counted'] or 'not counted'} of {entry.view_seen['expected']:,}" for entry in seen]
        facts.append(("view as the server counts it, tokens", ", ".join(dict.fromkeys(counted))))
    if agent.answered_alike is not None:
        asked, alike = agent.answered_alike
        facts.append(("the same request twice", f"{alike} of {asked} got the same reply"))
    if card.forms:
        facts.append(("form of its turns", ", ".join(f"{form} {100 * share:.0f} %" for form, share in list(card.forms.items())[:4])))
    facts.append(("ends of its conversations", ", ".join(f"{end} {count:,}" for end, count in card.endings.items())))
    if spent.requests:
        each = f"{spent.requests / questions:.1f} requests, {spent.sampled_tokens / questions:,.0f} sampled tokens a question and view"
        facts.append(("cost", f"{spent.requests:,} requests, {spent.prompt_tokens:,} prompt tokens, {spent.seconds / 60:.0f} min; {each}"))
    return facts


def protocol_text(protocol: Protocol) -> str:
    """The version, and what was asked otherwise."""
    return f"version {protocol.version}" + (f", but for {', '.join(protocol.changed)}" if protocol.changed else "")


def draw_card(card: Card, path: Path) -> None:
    """The card as one picture: the verdict, accuracy by arm at each view, and the four steps."""
    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    title = f"{card.agent.name}: {conduct_text(card)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=min(15, 800 / len(title)), weight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw(left, card, "accuracy", ACCURACIES, "right answers, %")
    _draw(right, card, "steps", {name: name for name in STEPS}, "from question to evidence, %")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=len(card.together), frameon=False, fontsize=8)
    questions = card.together[0].questions if card.together else 0
    made = (
        f"{questions} drawn questions a view, 95 % intervals; protocol {card.protocol.version}{', changed' * bool(card.protocol.changed)}"
    )
    left.set_xlabel(made, fontsize=8, color="#5f6672", loc="left")
    said = [line for sentence in filter(None, (card.verdict, card.contradicted)) for line in textwrap.wrap(sentence, 150)]
    figure.supxlabel("\n".join(said), x=0.01, ha="left", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw(axis: Any, card: Card, part: str, labels: Mapping[str, str], title: str) -> None:
    """One panel: a point with its interval for each row and view."""
    rows = [key for key in labels if any(key in getattr(entry, part) for entry in card.together)]
    for number, entry in enumerate(card.together):
        found = [(i, getattr(entry, part)[key]) for i, key in enumerate(rows) if key in getattr(entry, part)]
        heights = [i + 0.18 * (number - (len(card.together) - 1) / 2) for i, _ in found]
        means = [100 * interval[0] for _, interval in found]
        spread = [[max(0.0, 100 * (m - low)) for _, (m, low, _) in found], [max(0.0, 100 * (high - m)) for _, (m, _, high) in found]]
        axis.errorbar(
            means, heights, xerr=spread, fmt="o", ms=4, lw=1.3, color=COLOURS[number % len(COLOURS)], label=f"{entry.view_tokens:,} tokens"
        )
    axis.set_yticks(range(len(rows)), [labels[key] for key in rows])
    axis.invert_yaxis()
    axis.set_xlim(-2, 102)
    axis.grid(axis="x", alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=10, loc="left")
