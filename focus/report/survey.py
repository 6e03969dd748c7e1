"""What does a data set hold? Counts, options, sizes and boxes, a contact sheet, and the images it shares with other sets. `make inspect`.

Look here before training or testing on a set: answers that are always at A, boxes in another frame, images too small for a gap and test
images among the training ones are all visible on one screen. The questions are read one after the other and forgotten.
"""

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from focus.data.boxes import Size, area
from focus.data.readers import SETS
from focus.data.sample import Records, Sample
from focus.grading import grader
from focus.runtime.text import replace_surrogates_in

TOP = 6  # values of a field on the terminal
VALUES = 200  # a field of `meta` with more different values says which question it is, not which kind
BAR = 24  # characters of a share of 100 %


@dataclass
class Contents:
    """What was counted over all questions."""

    questions: int = 0
    decidable: int = 0  # questions whose every answer the rules alone can decide
    groups: set[str] = field(default_factory=set)
    fields: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # split, scorer, licence, ...
    meta: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    options: Counter[int] = field(default_factory=Counter)  # of questions by the number of their options
    letters: Counter[str] = field(default_factory=Counter)  # of questions by the letter of the right option
    by_chance: float = 0.0  # right answers that guessing an option is expected to give
    images: dict[str, Size] = field(default_factory=dict)
    boxed: int = 0  # questions with boxes
    targets: Counter[int] = field(default_factory=Counter)  # of questions with boxes
    levels: Counter[int] = field(default_factory=Counter)  # of targets
    evidence: array = field(default_factory=lambda: array("d"))  # area of B1 relative to the image, of each target
    characters: array = field(default_factory=lambda: array("q"))  # of the questions


def survey(samples: Sequence[Sample]) -> Contents:
    """Count over all questions. No image is opened: sizes are those that the records state."""
    found = Contents()
    for sample, record in track(_with_records(samples), "counting", total=len(samples), transient=True):
        found.questions += 1
        found.decidable += grader.count_decidable([sample])
        found.groups.add(sample.group)
        found.fields["source"][sample.source] += 1
        found.fields["split"][sample.split] += 1
        found.fields["scorer"][sample.scorer] += 1
        for name in ("answer_type", "licence", "box_origin", "box_rule"):
            if record.get(name):
                found.fields[name][str(record[name])] += 1
        for name, value in sample.meta.items():
            if isinstance(value, str | bool | int) and len(found.meta[name]) <= VALUES:
                found.meta[name][str(value)] += 1
        if sample.options:
            found.options[len(sample.options)] += 1
        if sample.scorer == "letter":
            found.letters[sample.answers[0]] += 1
            found.by_chance += 1 / len(sample.options)
        found.images[record.get("image_sha256") or record.get("image") or sample.id] = sample.size
        if sample.boxes:
            found.boxed += 1
            found.targets[len(sample.boxes)] += 1
        for chain in sample.boxes:
            found.levels[len(chain)] += 1
            found.evidence.append(area(chain[0]) / (sample.width * sample.height))
        found.characters.append(len(sample.question))
    return found


def _with_records(samples: Sequence[Sample]) -> Iterator[tuple[Sample, dict]]:
    """Every question with its line of the file, which says more than a sample does; of a scene, which has none, it is empty."""
    if not isinstance(samples, Records):
        yield from ((sample, {}) for sample in samples)
        return
    with samples.path.open("rb") as lines:
        for index, start in enumerate(samples.starts):
            lines.seek(int(start))
            yield samples[index], replace_surrogates_in(json.loads(lines.readline()))


def spread(count: int, shown: int, seed: int) -> list[int]:
    """Places of `shown` of `count` questions: a random one from each of as many equal stretches."""
    edges = np.linspace(0, count, min(shown, count) + 1).astype(int)
    random = np.random.default_rng(seed)
    return [int(random.integers(low, high)) for low, high in pairwise(edges)]


def _three(values: array) -> list[float] | None:
    """Least, median and most."""
    return [float(v) for v in (min(values), np.median(values), max(values))] if values else None


def _kinds(found: Contents) -> list[tuple[str, Counter[str]]]:
    """The fields of `meta` that say what kind of question it is."""
    return [(name, counter) for name, counter in found.meta.items() if len(counter) <= min(VALUES, max(2 * TOP, counter.total() // 2))]


def _print(found: Contents, source: str, shared: Mapping[str, list[str]], console: Console) -> None:
    table = Table(title=Text(source, style="bold"), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(min_width=12, style="dim")
    table.add_column(overflow="fold")
    published = SETS.get(source)
    counts = f"{found.questions}" + (f"; published: {published.counts}" if published else "")
    table.add_row("questions", Text(counts))
    table.add_row("grading", Text(grader.decidable_sentence(found.decidable, found.questions, None)))
    table.add_row("groups", Text(f"{len(found.groups)} (what intervals are drawn over)"))
    for name, counter in (*found.fields.items(), *_kinds(found)):
        table.add_row(Text(name), Text(_top(counter)))
    table.add_row("options", Text(_numbers(found.options) or "none: answers are open"))
    if found.letters:
        table.add_row("answers", _letters(found))
    table.add_row("images", Text(_images(found.images)))
    table.add_row("boxes", Text(_boxes(found)))
    least, median, most = _three(found.characters) or (0, 0, 0)
    table.add_row("question", Text(f"{least:.0f} to {most:.0f} characters, median {median:.0f}"))
    if shared["compared"]:
        seen = "see below" if shared["found"] else "none"
        table.add_row("shared", Text(f"{seen}; compared with {len(shared['compared'])} sets read before: {', '.join(shared['compared'])}"))
    if shared["unread"]:
        table.add_row("not compared", Text(f"{', '.join(shared['unread'])}: test sets that were not read here; `make inspect` reads one"))
    console.print(table)
    for sentence in shared["found"]:
        console.print(Text(sentence, style="yellow"))


def _top(counter: Counter[str]) -> str:
    listed = [f"{name} {count}" for name, count in counter.most_common(TOP)]
    more = f", and {len(counter) - TOP} others" if len(counter) > TOP else ""
    return ", ".join(listed) + more


def _numbers(counter: Counter[int]) -> str:
    return ", ".join(f"{number}: {count}" for number, count in sorted(counter.items()))


def _letters(found: Contents) -> Text:
    """A bar for each letter, and a word about one that guessing should not find so often."""
    total, text = found.letters.total(), Text()
    for letter, count in sorted(found.letters.items()):
        text.append(f"{letter} {'█' * round(BAR * count / total) or '▏':{BAR}} {count} ({count / total:.0%})\n")
    [(letter, count)] = found.letters.most_common(1)
    chance = found.by_chance / total
    deviation = math.sqrt(chance * (1 - chance) / total)
    if count == total and total > 1:
        text.append(f"every answer is {letter}: whoever always says {letter} is right, so nothing is measured", style="bold red")
    elif count / total > chance + 4 * deviation:
        text.append(f"{letter} is right in {count / total:.0%}, guessing in {chance:.0%}: a favourite letter is rewarded", style="yellow")
    text.rstrip()
    return text


def _images(images: Mapping[str, Size]) -> str:
    sizes = sorted(images.values(), key=math.prod)
    return f"{len(sizes)} different; " + ", ".join(
        f"{name} {size[0]} × {size[1]} px ({math.prod(size) / 1e6:.2g} Mpx)"
        for name, size in (("smallest", sizes[0]), ("median", sizes[len(sizes) // 2]), ("largest", sizes[-1]))
    )


def _boxes(found: Contents) -> str:
    shares = _three(found.evidence)
    if shares is None:
        return "none; give some with data.annotations"
    least, median, most = (f"{share:.2%}" for share in shares)
    return (
        f"{found.boxed} of {found.questions} questions have some; questions by targets {_numbers(found.targets)}; targets by levels "
        f"{_numbers(found.levels)}; B1 covers {median} of the image (median; {least} to {most})"
    )
