"""What a data set holds: counts, options, sizes, boxes, and images that it shares with other sets.

`make inspect`.

Run it before training or testing on a set. One screen shows answers that are always A, boxes in a
wrong frame, images too small for a gap, and test images among the training ones. The questions are
read one at a time and not kept in memory.
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
VALUES = 200  # a field of `meta` with more different values identifies questions, not kinds of questions
BAR = 24  # characters that stand for a share of 100 %


@dataclass
class Contents:
    """The counts over all questions."""

    questions: int = 0
    decidable: int = 0  # questions that the rules alone can grade, for every accepted answer
    groups: set[str] = field(default_factory=set)
    fields: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # split, scorer, licence, ...
    meta: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    options: Counter[int] = field(default_factory=Counter)  # of questions by the number of their options
    letters: Counter[str] = field(default_factory=Counter)  # of questions by the letter of the right option
    by_chance: float = 0.0  # expected number of right answers when options are guessed
    images: dict[str, Size] = field(default_factory=dict)
    boxed: int = 0  # questions with boxes
    targets: Counter[int] = field(default_factory=Counter)  # of questions with boxes
    levels: Counter[int] = field(default_factory=Counter)  # of targets
    evidence: array = field(default_factory=lambda: array("d"))  # area of B1 relative to the image, of each target
    characters: array = field(default_factory=lambda: array("q"))  # of the questions


def survey(samples: Sequence[Sample]) -> Contents:
    """Count over all questions. No image is opened: the records state the sizes."""
    contents = Contents()
    for sample, record in track(_with_records(samples), "counting", total=len(samples), transient=True):
        contents.questions += 1
        contents.decidable += grader.count_decidable([sample])
        contents.groups.add(sample.group)
        contents.fields["source"][sample.source] += 1
        contents.fields["split"][sample.split] += 1
        contents.fields["scorer"][sample.scorer] += 1
        for name in ("answer_type", "licence", "box_origin", "box_rule"):
            if record.get(name):
                contents.fields[name][str(record[name])] += 1
        for name, value in sample.meta.items():
            if isinstance(value, str | bool | int) and len(contents.meta[name]) <= VALUES:
                contents.meta[name][str(value)] += 1
        if sample.options:
            contents.options[len(sample.options)] += 1
        if sample.scorer == "letter":
            contents.letters[sample.answers[0]] += 1
            contents.by_chance += 1 / len(sample.options)
        contents.images[record.get("image_sha256") or record.get("image") or sample.id] = sample.size
        if sample.boxes:
            contents.boxed += 1
            contents.targets[len(sample.boxes)] += 1
        for chain in sample.boxes:
            contents.levels[len(chain)] += 1
            contents.evidence.append(area(chain[0]) / (sample.width * sample.height))
        contents.characters.append(len(sample.question))
    return contents


def _with_records(samples: Sequence[Sample]) -> Iterator[tuple[Sample, dict]]:
    """Every question with its record, which has more fields than a sample.

    Scenes have no records; theirs are empty.
    """
    if not isinstance(samples, Records):
        yield from ((sample, {}) for sample in samples)
        return
    with samples.path.open("rb") as lines:
        for index, start in enumerate(samples.starts):
            lines.seek(int(start))
            yield samples[index], replace_surrogates_in(json.loads(lines.readline()))


def stratified_indices(count: int, shown: int, seed: int) -> list[int]:
    """Indices of `shown` of `count` questions: a random one from each of `shown` equal ranges."""
    edges = np.linspace(0, count, min(shown, count) + 1).astype(int)
    random = np.random.default_rng(seed)
    return [int(random.integers(low, high)) for low, high in pairwise(edges)]


def smallest_median_largest(values: array) -> list[float] | None:
    """The smallest value, the median and the largest; None without values."""
    return [float(v) for v in (min(values), np.median(values), max(values))] if values else None


def kinds(contents: Contents) -> list[tuple[str, Counter[str]]]:
    """The fields of `meta` that name kinds of questions, with the counts of their values."""
    return [(name, counter) for name, counter in contents.meta.items() if len(counter) <= min(VALUES, max(2 * TOP, counter.total() // 2))]


def print_contents(contents: Contents, source: str, shared: Mapping[str, list[str]], console: Console) -> None:
    """Print the counts as a table.

    `shared` has the sets that were compared, what was found, and the sets that were not read.
    """
    table = Table(title=Text(source, style="bold"), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(min_width=12, style="dim")
    table.add_column(overflow="fold")
    published = SETS.get(source)
    counts = f"{contents.questions}" + (f"; published: {published.counts}" if published else "")
    table.add_row("questions", Text(counts))
    table.add_row("grading", Text(grader.decidable_sentence(contents.decidable, contents.questions, None)))
    table.add_row("groups", Text(f"{len(contents.groups)} (intervals are resampled over them)"))
    for name, counter in (*contents.fields.items(), *kinds(contents)):
        table.add_row(Text(name), Text(_top(counter)))
    table.add_row("options", Text(_numbers(contents.options, "question", "option") or "none: answers are open"))
    if contents.letters:
        table.add_row("answers", _letters(contents))
    table.add_row("images", Text(_images(contents.images)))
    table.add_row("boxes", Text(_boxes(contents)))
    least, median, most = smallest_median_largest(contents.characters) or (0, 0, 0)
    table.add_row("question", Text(f"{least:.0f} to {most:.0f} characters, median {median:.0f}"))
    if shared["compared"]:
        result = "see below" if shared["found"] else "none"
        table.add_row(
            "shared", Text(f"{result}; compared with {len(shared['compared'])} sets read before: {', '.join(shared['compared'])}")
        )
    if shared["unread"]:
        table.add_row("not compared", Text(f"{', '.join(shared['unread'])}: test sets that were not read here; `make inspect` reads one"))
    console.print(table)
    for sentence in shared["found"]:
        console.print(Text(sentence, style="yellow"))


def _top(counter: Counter[str]) -> str:
    listed = [f"{name} {count}" for name, count in counter.most_common(TOP)]
    more = f", and {len(counter) - TOP} others" if len(counter) > TOP else ""
    return ", ".join(listed) + more


def _numbers(counter: Counter[int], thing: str, part: str) -> str:
    """How many things have how many parts: `1 question with 2 options, 2 questions with 4 options`."""
    return ", ".join(
        f"{count} {thing}{'s' * (count > 1)} with {number} {part}{'s' * (number > 1)}" for number, count in sorted(counter.items())
    )


def _letters(contents: Contents) -> Text:
    """A bar per letter, and a warning if one letter is right more often than chance allows."""
    total, text = contents.letters.total(), Text()
    for letter, count in sorted(contents.letters.items()):
        text.append(f"{letter} {'█' * round(BAR * count / total) or '▏':{BAR}} {count} ({count / total:.0%})\n")
    [(letter, count)] = contents.letters.most_common(1)
    chance = contents.by_chance / total
    deviation = math.sqrt(chance * (1 - chance) / total)
    if count == total and total > 1:
        text.append(f"every answer is {letter}: a policy that always says {letter} is right, so nothing is measured", style="bold red")
    elif count / total > chance + 4 * deviation:
        text.append(f"{letter} is right in {count / total:.0%}, a guess in {chance:.0%}: always answering {letter} pays", style="yellow")
    text.rstrip()
    return text


def _images(images: Mapping[str, Size]) -> str:
    sizes = sorted(images.values(), key=math.prod)
    return f"{len(sizes)} different; " + ", ".join(
        f"{name} {size[0]} × {size[1]} px ({math.prod(size) / 1e6:.2g} Mpx)"
        for name, size in (("smallest", sizes[0]), ("median", sizes[len(sizes) // 2]), ("largest", sizes[-1]))
    )


def _boxes(contents: Contents) -> str:
    shares = smallest_median_largest(contents.evidence)
    if shares is None:
        return "none; add some with data.annotations"
    least, median, most = (f"{share:.2%}" for share in shares)
    return (
        f"{contents.boxed} of {contents.questions} questions have boxes: "
        f"{_numbers(contents.targets, 'question', 'target')}; {_numbers(contents.levels, 'target', 'level')}; "
        f"B1 covers {median} of the image (median; {least} to {most})"
    )
