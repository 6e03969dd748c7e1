"""Joins records with their annotations."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from focus.data.annotations.chains import describe_size
from focus.data.annotations.faults import Fault, Tally
from focus.data.annotations.image_names import likely_stems, simplified, stem
from focus.data.annotations.reading import read_questions, usable_annotations
from focus.data.annotations.regions import Annotated, Key, Question, key_of
from focus.data.boxes import Size
from focus.data.readers.tables import rows_of
from focus.runtime.files import atomic_write, json_text


@dataclass(frozen=True)
class Written:
    """The result of joining.

    `counted` and `first` are those of `read_annotations`, plus faults of the join.
    """

    annotated: int  # records that were written
    without: int  # records without annotation, which were left out
    rules: Counter[str]
    counted: Counter[str]
    first: Mapping[str, str]


def write_annotated(records: Path, annotations: Path, out: Path, repair: bool = False) -> Written:
    """Write to `out` the records of a `records.jsonl` that the export annotates, with its boxes
    instead of their own.

    A record is found by the question's id: the record's whole id, or the part after
    `<source>/<split>/`. A question without an id is joined by the name of its image, if only one
    record has that image; else by that name without the changes of uploads and exporters. A size
    that the export lacks is taken from the record. Image paths do not change: if `out` is in
    another folder, data.root must name the folder that they are relative to. `out` appears when it
    is complete. Raises ValueError if a file can't be read, `out` is one of them, or no record is
    annotated.
    """
    if out.resolve() in (records.resolve(), annotations.resolve()):
        raise ValueError(f"{out} is an input, which the output would overwrite; give another output file")
    if not records.is_file():
        raise ValueError(f"data file {records} does not exist; write the records first")
    tally = Tally(annotations.name)
    questions = read_questions(annotations, tally)
    matches = _Matches(questions, _records(records))
    by_key = usable_annotations(questions, matches.sizes, repair, tally)
    if not by_key:
        raise ValueError(f"{annotations} has no annotation that can be used. {tally.summary()}")
    used: set[Key] = set()
    rules: Counter[str] = Counter()
    total = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        with partial.open("w") as lines:
            for record in _records(records):
                total += 1
                key = next((key for key in matches.keys_of(record) if key in by_key), None)
                if key is None:
                    continue
                used.add(key)
                annotated, size = by_key[key], (record["width"], record["height"])
                if annotated.size != size:
                    seen = f"{describe_size(annotated.size)}, the record says {describe_size(size)}"
                    tally.add(Fault.OTHER_SIZE, annotated.location, record["id"], seen)
                    continue
                if stem(annotated.image) != stem(record["image"]):
                    fault = Fault.RENAMED if simplified(stem(record["image"])) in likely_stems(annotated.image) else Fault.OTHER_NAME
                    tally.add(fault, annotated.location, record["id"], f"{annotated.image}, the record says {record['image']}")
                rules[annotated.rule] += 1
                boxes = {"boxes": annotated.chains, "box_labels": annotated.labels, "box_origin": "human", "box_rule": annotated.rule}
                lines.write(json_text(record | boxes) + "\n")
        for key, unused in by_key.items():
            if key not in used:
                several = Fault.SEVERAL_RECORDS if key[0] == "id" else Fault.SEVERAL_QUESTIONS
                holders = matches.holders(unused)
                fault = Fault.NO_RECORD if not holders else Fault.REPEATED if holders == 1 else several
                tally.add(fault, unused.location, "question id" if key[0] == "id" else "image", key[1])
        if not rules:
            raise ValueError(f"{annotations} annotates none of the {total} records of {records}. {tally.summary()}")
    return Written(rules.total(), total - rules.total(), rules, tally.counted, tally.first)


class _Matches:
    """Which annotation belongs to which record, from one pass over all records."""

    def __init__(self, questions: Sequence[Question], records: Iterable[dict]) -> None:
        self.sizes: dict[Key, set[Size]] = {key_of(question): set() for question in questions}
        self._holders: Counter[Key] = Counter()
        self._likely = {key_of(question): likely_stems(question.image) for question in questions if question.question_id is None}
        claims = Counter(name for names in self._likely.values() for name in names)
        likely_sizes: dict[str, set[Size]] = {}
        self._likely_holders: Counter[str] = Counter()
        for record in records:
            size, name = (record["width"], record["height"]), simplified(stem(record["image"]))
            for key in _keys(record):
                if key in self.sizes:
                    self._holders[key] += 1
                    self.sizes[key].add(size)
            if name in claims:
                self._likely_holders[name] += 1
                likely_sizes.setdefault(name, set()).add(size)
        # By simplified stem of a record's image: the annotation that has no other record
        self._aliases: dict[str, Key] = {}
        for key, names in self._likely.items():
            alone = (name for name in names if claims[name] == 1 and self._likely_holders[name] == 1)
            alias = None if self._holders[key] else next(alone, None)
            if alias is not None:
                self._aliases[alias] = key
                self.sizes[key] = likely_sizes[alias]

    def keys_of(self, record: Mapping) -> list[Key]:
        """Keys of annotations that can belong to this record only, the most certain first."""
        alias = self._aliases.get(simplified(stem(record["image"])))
        return [key for key in _keys(record) if self._holders[key] == 1] + ([alias] if alias else [])

    def holders(self, annotated: Annotated) -> int:
        """How many records an annotation may belong to."""
        key = key_of(annotated)
        return self._holders[key] or max((self._likely_holders[name] for name in self._likely.get(key, ())), default=0)


def _records(path: Path) -> Iterator[dict]:
    for location, record in rows_of(path):
        kinds = {"id": str, "image": str, "width": int, "height": int}
        if wrong := [key for key, kind in kinds.items() if type(record.get(key)) is not kind]:
            raise ValueError(f"{path}, row {location.row}: not a canonical record, its {wrong[0]} is {record.get(wrong[0])!r}")
        yield record


def _keys(record: Mapping) -> list[Key]:
    """The keys by which an annotation may name this record, the most certain first."""
    native = record["id"].split("/", 2)[2:]
    return [*(("id", name) for name in [record["id"], *native]), ("image", stem(record["image"]))]
