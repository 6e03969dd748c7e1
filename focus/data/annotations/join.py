"""Records joined with their annotations."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from focus.data.annotations.coco import ROBOFLOW
from focus.data.annotations.faults import Fault, Tally
from focus.data.annotations.reading import _read, _told, _usable
from focus.data.annotations.regions import UPLOADED, Annotated, Key, Question, _rewritten, _said_size, _stem, key_of
from focus.data.boxes import Size
from focus.data.readers.tables import rows_of
from focus.runtime.files import atomic_write


@dataclass(frozen=True)
class Written:
    """What became of an export. `counted` and `first` are those of `read_annotations`, and what was found when joining."""

    annotated: int  # records that were written
    without: int  # records that have no annotation and were left out
    rules: Counter[str]
    counted: Counter[str]
    first: Mapping[str, str]


def write_annotated(records: Path, annotations: Path, out: Path, repair: bool = False) -> Written:
    """Write to `out` those records of a `records.jsonl` that the export annotates, with its boxes in place of any they had.

    A record is found by the question's id (the record's whole id, or what follows `<source>/<split>/`); without an id by the name of its
    image, if it alone asks about that image; else by that name without what an upload or an exporter makes of it. A size that the export
    lacks is the record's. Image paths are kept as they are: where `out` is in another folder, data.root must name the folder they are
    relative to. `out` appears when it is complete.
    Raises ValueError if a file can't be read, `out` is one of them, or no record is annotated.
    """
    if out.resolve() in (records.resolve(), annotations.resolve()):
        raise ValueError(f"{out} would be overwritten by its own annotated part; give another file to write to")
    if not records.is_file():
        raise ValueError(f"data file {records} does not exist; write the records first")
    tally = Tally(annotations.name)
    questions = _read(annotations, tally)
    matches = _Matches(questions, _records(records))
    by_key = _usable(questions, matches.sizes, repair, tally)
    if not by_key:
        raise ValueError(f"{annotations} has no annotation that can be used. {_told(tally)}")
    used: set[Key] = set()
    rules: Counter[str] = Counter()
    total = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        with partial.open("w") as lines:
            for record in _records(records):
                total += 1
                key = next((key for key in matches.of(record) if key in by_key), None)
                if key is None:
                    continue
                used.add(key)
                each, size = by_key[key], (record["width"], record["height"])
                if each.size != size:
                    tally.add(Fault.OTHER_SIZE, each.place, record["id"], f"{_said_size(each.size)}, the record says {_said_size(size)}")
                    continue
                if _stem(each.image) != _stem(record["image"]):
                    fault = Fault.RENAMED if _rewritten(_stem(record["image"])) in _likely(each.image) else Fault.OTHER_NAME
                    tally.add(fault, each.place, record["id"], f"{each.image}, the record says {record['image']}")
                rules[each.rule] += 1
                boxes = {"boxes": each.chains, "box_labels": each.labels, "box_origin": "human", "box_rule": each.rule}
                lines.write(json.dumps(record | boxes) + "\n")
        for key, each in by_key.items():
            if key not in used:
                several = Fault.SEVERAL_RECORDS if key[0] == "id" else Fault.SEVERAL_QUESTIONS
                holders = matches.holders(each)
                fault = Fault.NO_RECORD if not holders else Fault.REPEATED if holders == 1 else several
                tally.add(fault, each.place, "question id" if key[0] == "id" else "image", key[1])
        if not rules:
            raise ValueError(f"{annotations} annotates none of the {total} records of {records}. {_told(tally)}")
    return Written(rules.total(), total - rules.total(), rules, tally.counted, tally.first)


class _Matches:
    """Which annotation is for which record, by one look at all records."""

    def __init__(self, questions: Sequence[Question], records: Iterable[dict]) -> None:
        self.sizes: dict[Key, set[Size]] = {key_of(each): set() for each in questions}
        self._holders: Counter[Key] = Counter()
        self._likely = {key_of(each): _likely(each.image) for each in questions if each.question_id is None}
        claims = Counter(name for names in self._likely.values() for name in names)
        likely_sizes: dict[str, set[Size]] = {}
        self._likely_holders: Counter[str] = Counter()
        for record in records:
            size, name = (record["width"], record["height"]), _rewritten(_stem(record["image"]))
            for key in _keys(record):
                if key in self.sizes:
                    self._holders[key] += 1
                    self.sizes[key].add(size)
            if name in claims:
                self._likely_holders[name] += 1
                likely_sizes.setdefault(name, set()).add(size)
        self._aliases: dict[str, Key] = {}  # by the name of a record's image: the one annotation that has no other record
        for key, names in self._likely.items():
            alone = (name for name in names if claims[name] == 1 and self._likely_holders[name] == 1)
            found = None if self._holders[key] else next(alone, None)
            if found is not None:
                self._aliases[found] = key
                self.sizes[key] = likely_sizes[found]

    def of(self, record: Mapping) -> list[Key]:
        """What annotations of this record alone are called, the surest first."""
        alias = self._aliases.get(_rewritten(_stem(record["image"])))
        return [key for key in _keys(record) if self._holders[key] == 1] + ([alias] if alias else [])

    def holders(self, annotated: Annotated) -> int:
        """How many records an annotation may be for."""
        key = key_of(annotated)
        return self._holders[key] or max((self._likely_holders[name] for name in self._likely.get(key, ())), default=0)


def _records(path: Path) -> Iterator[dict]:
    for place, record in rows_of(path):
        kinds = {"id": str, "image": str, "width": int, "height": int}
        if wrong := [key for key, kind in kinds.items() if type(record.get(key)) is not kind]:
            raise ValueError(f"{path}, row {place.row}: not a canonical record, its {wrong[0]} is {record.get(wrong[0])!r}")
        yield record


def _keys(record: Mapping) -> list[Key]:
    """What an annotation may call this record by, the surest first."""
    native = record["id"].split("/", 2)[2:]
    return [*(("id", each) for each in [record["id"], *native]), ("image", _stem(record["image"]))]


def _likely(image: str) -> list[str]:
    """What the stem of an annotated image may have been before it was uploaded and exported, the least changed first; `_rewritten`."""
    names = [_stem(image)]
    for undone in (unquote, lambda name: ROBOFLOW.sub(r"\1", name), lambda name: UPLOADED.sub("", name, count=1)):
        names += [undone(name) for name in names]
    return list(dict.fromkeys(map(_rewritten, names)))
