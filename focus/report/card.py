"""The model card of a trained policy: the README.md beside its weights, for the Hugging Face hub.

Names, settings and texts from outside stand in code spans and fenced blocks, where Markdown has no
effect. A card holds no date and no time, so a run leaves the same card whether it was interrupted
or not.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData, metadata_load
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import cached_file
from yaml import YAMLError

from focus.config.policy_settings import EMBEDDED_POLICIES
from focus.report.provenance import UNKNOWN, Start
from focus.report.run import ROWS
from focus.report.table import Results, markdown_table

SHOWN = ("own", "called", "D_noise")  # metrics of the final table that stand on the card
TAGS = ["lfpc", "grpo", "image-text-to-text"]


@dataclass(frozen=True)
class Card:
    """The content of a card.

    `licence` holds `license` and `license_name` as the base states them; it is empty if the base
    states none. `updates` is the number of updates made, `wanted` the number in the settings.
    `results` is the final table, None if nothing was measured.
    """

    name: str
    base: str
    base_hash: str
    licence: Mapping[str, str]
    source: str
    questions: int
    digest: str
    updates: int
    wanted: int
    seed: int
    rewards: Mapping[str, float]
    gap: str
    starts: Sequence[Start]
    results: Results | None


def card_text(card: Card) -> str:
    """The card in Markdown, with the front matter that the hub reads."""
    head = ModelCardData(
        base_model=card.base if _is_hub_name(card.base) else None,
        library_name="transformers",
        license=card.licence.get("license"),
        license_name=card.licence.get("license_name"),
        tags=list(TAGS),
    )
    rewards = ", ".join(f"{_code(name)} {weight:g}" for name, weight in card.rewards.items())
    lines = [
        f"---\n{head.to_yaml()}\n---",
        "",
        f"# {_code(card.name)}",
        "",
        "A vision-language policy, trained by reinforcement learning with focus, an open implementation of LFPC (arXiv 2603.27494). It "
        "sees the whole image at few tokens, can request crops of the original, and answers.",
        "",
        "## Training",
        "",
        f"- base: {_code(card.base)}, hash of its weights {_code(card.base_hash)}",
        f"- data: {_code(card.source)}, {card.questions:,} questions, digest {_code(card.digest)}",
        f"- updates: {card.updates} of {card.wanted}",
        f"- seed: {card.seed}",
        f"- reward, terms and weights: {rewards}",
        f"- gap: {_code(card.gap)}",
    ]
    for start in card.starts:
        versions = ", ".join(f"{name} {_code(version)}" for name, version in start.versions.items())
        lines += [f"- commit: {_code(start.commit)}; versions: {versions}; command:", *_fenced(start.command or "started from Python")]
    if not card.starts:
        lines.append(f"- commit, versions and command: {UNKNOWN}")
    lines += ["", "## Measured", "", *_measured(card.results), "", "## Licence", "", _licence(card.licence)]
    return "\n".join(lines) + "\n"


def _measured(results: Results | None) -> list[str]:
    if results is None:
        return ["not measured"]
    labels = {label for label, _, metric, _ in ROWS if metric in SHOWN}
    rows = tuple(row for row in results.rows if row.metric in labels or row.metric.partition(" ")[2] in labels)  # also `@64 crop rate`
    table = markdown_table(Results("Accuracy, crop rate, and what noise in place of the crop costs", results.columns, rows))
    return [table, *(f"- {_code(note)}" for note in results.notes)]


def _licence(licence: Mapping[str, str]) -> str:
    stated = licence.get("license_name") or licence.get("license")
    named = f"The base states {_code(stated)}" if stated else f"It is {UNKNOWN}: the base states none here"
    return f"The weights derive from those of the base, so the licence of the base applies to them. {named}."


def _code(text: str) -> str:
    """A code span with this text on one line. Backticks in the text do not end the span."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text).strip() or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def _fenced(text: str) -> list[str]:
    """The lines of a fenced block inside a list item."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [f"  {line}" for line in (fence, *shown.split("\n"), fence)]


def _is_hub_name(base: str) -> bool:
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return "/" in base and not Path(base).exists()


def stated_licence(base: str, path: str | Path) -> dict[str, str]:
    """`license`, and `license_name` if there is one, of a base, from its card or its config.

    `path` is what `loading.checkpoint_path` returns: a folder, or a name on the hub. The result is
    empty if neither file states a licence. Without a network only the local cache of the hub is
    read.
    """
    if base in EMBEDDED_POLICIES.values():  # made here
        return {"license": "mit"}
    for name, read in (("README.md", metadata_load), ("config.json", lambda path: json.loads(Path(path).read_text()))):
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        try:
            fields = (read(file) if file else None) or {}
        except (OSError, ValueError, YAMLError, RecursionError):  # a file from outside, with any content
            continue
        stated = {key: fields[key] for key in ("license", "license_name") if isinstance(fields.get(key), str)}
        stated = {key: value for key, value in stated.items() if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,99}", value)}
        if "license" in stated:
            return stated
    return {}
