"""Questions that people annotate here: their records, what was drawn, and the annotated records that
training reads.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from focus.data.annotations.join import write_annotated
from focus.data.annotations.journal import STATES, Drawing, Journal
from focus.data.annotations.writing import EXPORTS
from focus.data.sample import Records, problems_of, read_records
from focus.runtime.files import atomic_write, json_text, read_json
from focus.runtime.text import replace_surrogates_in


@dataclass(frozen=True)
class Imported:
    """The result of an import: the number of questions that got their boxes from it, of those that kept
    their own, and of unused annotations by reason with the first of each.
    """

    imported: int
    kept: int
    unused: Mapping[str, int]
    first: Mapping[str, str]


class Project:
    """Questions of a file, annotated in a folder.

    The folder holds `journal.jsonl` (every save), `records.jsonl` (the annotated questions, written
    anew whenever a question is done or reopened) and `reading.json` (where their images are).
    """

    def __init__(self, samples: Records, folder: Path) -> None:
        """Raises ValueError if the journal is damaged, or of questions about other images."""
        self.samples, self.folder = samples, folder
        self.journal = Journal(folder / "journal.jsonl")
        manifest, root = folder / "reading.json", str(samples.root.resolve())
        if manifest.exists() and (other := read_json(manifest).get("root")) != root:
            raise ValueError(
                f"{folder} holds what was drawn on the images in {other}, but these questions are about images in {root}; choose another "
                f"folder, or remove {manifest} if the images were moved"
            )
        with atomic_write(manifest) as partial:
            partial.write_text(json_text({"root": root}) + "\n")
        self.ids = [sample.id for sample in samples]
        self.index_of = {name: index for index, name in enumerate(self.ids)}

    @property
    def records(self) -> Path:
        """The annotated records, for `data.records`."""
        return self.folder / "records.jsonl"

    def progress(self) -> dict[str, float | None]:
        """The number of questions in each state, how many there are, and the median seconds of those that
        were drawn here; None before the first.
        """
        with self.journal.newest() as drawings:
            known = [drawing for name, drawing in drawings.items() if name in self.index_of]
        counted = Counter(drawing.state for drawing in known)
        counted["open"] = len(self.ids) - counted["done"] - counted["skipped"]
        seconds = [drawing.seconds for drawing in known if drawing.state == "done" and drawing.seconds]
        return {state: counted[state] for state in STATES} | {"total": len(self.ids), "seconds": median(seconds) if seconds else None}

    def next_open(self, after: int, taken: Collection[int] = ()) -> int | None:
        """The next question that is open, from `after` on and around; None if there is none.

        Those that others work on (`taken`) come only if no other is left.
        """
        order = [*range(after + 1, len(self.ids)), *range(after + 1)]
        with self.journal.newest() as drawings:
            is_open = [index for index in order if drawings.get(self.ids[index], Drawing("")).state == "open"]
        return next((index for index in is_open if index not in taken), is_open[0] if is_open else None)

    def save(self, drawing: Drawing) -> Drawing:
        """Save what was drawn for a question of the file; returns its new state.

        Raises Conflict like `Journal.save`, and ValueError, with what to do, for boxes that training
        can't use.
        """
        sample = replace(self.samples[self.index_of[drawing.id]], boxes=drawing.chains)
        problems = problems_of(sample)
        if drawing.state not in STATES:
            problems.append(f"its state is {drawing.state!r}; choose one of {', '.join(STATES)}")
        if drawing.state == "done" and not drawing.chains:
            problems.append("it has no box; draw one before it is done, or skip it")
        if problems:
            raise ValueError(f"question {drawing.id} was not saved: {'; '.join(problems)}")
        before = self.journal.of(drawing.id)
        saved = self.journal.save(drawing)
        if "done" in (before.state, saved.state):
            self.write_records()
        return saved

    def write_records(self) -> None:
        """Write the annotated records."""
        with self.journal.newest() as drawings, atomic_write(self.records) as partial, partial.open("w") as out:
            out.writelines(json_text(record) + "\n" for record in self._annotated(drawings))

    def export(self, tool: str) -> str:
        """The annotated questions as a file of `EXPORTS`. Raises ValueError if there is none."""
        with self.journal.newest() as drawings:
            records = list(self._annotated(drawings))
        if not records:
            raise ValueError("no question is done, so there is nothing to export; finish one first")
        return EXPORTS[tool][1](records)

    def _annotated(self, drawings: Mapping[str, Drawing]) -> Iterator[dict[str, Any]]:
        """The records of the questions that are done, in the order of the file, with the drawn boxes."""
        done = sorted(self.index_of[name] for name, each in drawings.items() if each.state == "done" and name in self.index_of)
        with self.samples.path.open("rb") as lines:
            for index in done:
                lines.seek(int(self.samples.starts[index]))
                record = replace_surrogates_in(json.loads(lines.readline()))
                chains = drawings[self.ids[index]].chains
                labels = [[f"B{level}" for level in range(1, len(chain) + 1)] for chain in chains]
                yield record | {"boxes": chains, "box_labels": labels, "box_origin": "human", "box_rule": "level"}

    def take(self, export: Path) -> Imported:
        """Take over the boxes of an export of Label Studio, CVAT or COCO for questions that nobody worked on yet.

        Raises ValueError if the export can't be read or annotates none of the questions.
        """
        joined = export.with_name(f"{export.name}.records.jsonl")
        try:
            written = write_annotated(self.samples.path, export, joined)
            samples, dropped = read_records(joined, self.samples.root)
            drawings = [Drawing(s.id, 0, "done", s.boxes, f"imported from {export.name}") for s in samples if s.id in self.index_of]
        finally:
            joined.unlink(missing_ok=True)
        imported = self.journal.add(drawings)
        self.write_records()
        unused, first = written.counted + dropped, {**written.first, **samples.first_met}
        return Imported(imported, len(drawings) - imported, unused, first)
