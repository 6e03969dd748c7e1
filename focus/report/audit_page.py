"""The pages of audits: one card, or two side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus.evaluation.audit import Interval
from focus.report.audit_card import (
    ACCURACIES,
    LOST,
    SAID,
    STEPS,
    Agent,
    Card,
    Measured,
    Protocol,
    conduct_text,
    crops_text,
    dialect_text,
    protocol_text,
)
from focus.report.audit_picture import draw_card
from focus.report.html import write_html
from focus.report.verdict import Conduct
from focus.runtime import files


def write_card(card: Card, folder: Path) -> None:
    """Write card.json, card.html and card.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(folder / "card.json") as partial:
        partial.write_text(card.text(), encoding="utf-8")
    draw_card(card, folder / "card.png")
    name = card.agent.name
    write_html(folder / "card.html", "audit.html", title=f"Audit of {name}", cards=[shown(card, name)], differences=None)


def write_comparison(cards: Sequence[Card], path: Path) -> None:
    """Two cards side by side on one page. Raises ValueError where they were measured by different protocols."""
    first, second = (card.protocol for card in cards)
    differ = [
        f"{name} ({getattr(first, name)} and {getattr(second, name)})"
        for name in ("version", "views", "questions")
        if getattr(first, name) != getattr(second, name)
    ]
    if differ:
        raise ValueError(
            f"these cards don't compare: they differ in {' and '.join(differ)} of the protocol. Audit both agents with the same protocol, "
            "seed and sets"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    names = names_of(cards)
    shown_cards = [shown(card, name) for card, name in zip(cards, names, strict=True)]
    write_html(path, "audit.html", title=f"Audits of {' and '.join(names)}", cards=shown_cards, differences=differences(cards))


def differences(cards: Sequence[Card]) -> list[tuple[str, list[str]]]:
    """What differs between cards in who was asked, how and when: label, and the value of each card."""
    told = [_asked(card) for card in cards]
    return [(label, values) for label in told[0] if len(set(values := [each[label] for each in told])) > 1]


def names_of(cards: Sequence[Card]) -> list[str]:
    """The names of the agents; where they are the same, with the first thing that differs."""
    names = [card.agent.name for card in cards]
    differing = differences(cards)
    if len(set(names)) == len(names) or not differing:
        return names
    label, values = differing[0]
    return [f"{name} ({label}: {value})" for name, value in zip(names, values, strict=True)]


def _asked(card: Card) -> dict[str, str]:
    """Who was asked, how and when, by label. What tells most comes first."""
    agent = card.agent
    return {
        "agent": agent.name,
        "first call": "forced" if agent.first_call_forced else "its own",
        "dialect": dialect_text(agent),
        "weights": agent.weights,
        "engine": agent.engine,
        "temperature": f"{agent.temperature:g}",
        "crops": crops_text(agent),
        "tokens of a turn": f"{agent.tokens_per_turn:,}",
        "graded by": _graded_by(agent),
        "protocol": protocol_text(card.protocol),
        "left out": "; ".join(card.protocol.left_out) or "nothing",
        "date": str(card.made.get("date")),
        "commit": str(card.made.get("commit"))[:9],
    }


def _graded_by(agent: Agent) -> str:
    return f"rules, then {agent.judge}" if agent.judge else "rules alone"


def shown(card: Card, name: str) -> dict[str, Any]:
    """What the template shows of a card under this name."""
    return {
        "name": name,
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
        "made": _made(card.made),
    }


def _made(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a card was made, as label and value."""

    def text(value: Any) -> str:
        return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, Mapping) else str(value)

    return [(name, text(value)) for name, value in made.items()]


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
        ("Lost when crops are replaced, points", "dependence", LOST),
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
    facts = [
        ("dialect", dialect_text(agent)),
        (
            "engine",
            f"{agent.engine}, temperature {agent.temperature:g}, {crops_text(agent)}{', the first call forced' * agent.first_call_forced}",
        ),
        ("protocol", protocol_text(card.protocol)),
        ("questions", ", ".join(f"{count:,} {name}" for name, count in card.protocol.sets.items())),
        ("sample size", _sample_size(card.protocol)),
        ("graded by", _graded_by(agent)),
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
    minutes = f"{spent.seconds / 60:.1f} min"
    if not spent.requests:
        return [*facts, ("cost", f"{minutes}; the weights ran in the process of the audit")]
    each = f"{spent.requests / questions:.1f} requests, {spent.sampled_tokens / questions:,.0f} sampled tokens a question and view"
    return [*facts, ("cost", f"{spent.requests:,} requests, {spent.prompt_tokens:,} prompt tokens, {minutes}; {each}")]
