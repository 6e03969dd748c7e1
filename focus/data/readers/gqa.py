"""GQA: questions about photographs of at most about 500 px, with boxes in a second file, the scene
graphs.

A question's `annotations` name objects by id, for spans of the question and of the answers; an
object's box is x, y, width, height in pixels of the original. The evidence is the union of all
objects that a question names, so it is marked `derived`. A question that names an object without
scene graph is used without a box, and a note is counted: a union of the other objects would be too
small.

The scene graphs are joined by image. Only ids, boxes and names are kept, as arrays.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from focus.data.boxes import Box, enclosing
from focus.data.readers.draft import Draft, Location, Published
from focus.data.readers.tables import entries_of, find
from focus.data.readers.text import from_corner, meta_fields
from focus.data.readers.training import accepted_answers

UNKNOWN_OBJECT = "an object of its annotations is not in the scene graphs: the row is used without a box"
QUESTIONS = ("**/train_balanced_questions.json", "**/train*questions*.json", "**/*questions*.json")
GRAPHS = "**/*sceneGraphs*.json"


class Objects:
    """Boxes and names of the objects of all images: 48 bytes an object."""

    def __init__(self, graphs: Sequence[Path]) -> None:
        self._spans: dict[str, tuple[int, int]] = {}
        self._ids, self._name_of, self._boxes = array("q"), array("l"), array("d")
        self._names: dict[str, int] = {}
        for path in graphs:
            for location, image, graph in entries_of(path):
                start = len(self._ids)
                try:
                    for name, content in graph["objects"].items():
                        # Ids are strings; the few objects of an image have different hashes
                        self._ids.append(hash(name))
                        self._name_of.append(self._names.setdefault(content["name"], len(self._names)))
                        self._boxes.extend(float(content[key]) for key in "xywh")
                except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                    raise ValueError(
                        f"{path}, row {location.row} ({image}): not a scene graph of objects with name, x, y, w, h ({error!r})"
                    ) from error
                self._spans[image] = (start, len(self._ids))
        self._named = list(self._names)

    def find(self, image: str, name: str) -> tuple[str, Box] | None:
        """Name and box (x1, y1, x2, y2, pixels of the original) of an object; None if the image has
        no such object.
        """
        start, end = self._spans.get(image, (0, 0))
        try:
            at = self._ids.index(hash(name), start, end)
        except ValueError:
            return None
        x, y, width, height = self._boxes[4 * at : 4 * at + 4]
        return self._named[self._name_of[at]], from_corner((x, y, width, height))


def rows(root: Path) -> Iterator[tuple[Location, dict]]:
    """The questions, each with its id, its split (by its file's name) and the objects of all
    images.
    """
    questions, graphs = find(root, *QUESTIONS), find(root, GRAPHS)
    objects = Objects(graphs)
    for path in questions:
        for location, name, row in entries_of(path):
            yield location, row | {"question id": name, "split": path.stem.partition("_")[0], "objects": objects}


def draft(row: Mapping) -> Draft:
    """One box, the union of the objects, labelled with their names.

    Answers are a word or two, which GQA scores by equality.
    """
    answers, _ = accepted_answers([row["answer"]], (), "answer")
    named = [row["objects"].find(row["imageId"], target) for target in _targets(row.get("annotations"))]
    objects = [item for item in named if item]
    complete = bool(objects) and len(objects) == len(named)
    return Draft(
        split=row["split"],
        image=f"images/{row['imageId']}.jpg",
        question=row["question"],
        answers=answers,
        scorer="exact",
        boxes=(enclosing(box for _, box in objects),) if complete else (),
        box_labels=(", ".join(dict.fromkeys(name for name, _ in objects)),) if complete else (),
        box_origin="derived",
        meta=meta_fields(row, "isBalanced", "types"),
        notes=(UNKNOWN_OBJECT,) if len(objects) < len(named) else (),
    )


def _targets(annotations: Mapping | None) -> list[str]:
    """The ids that the annotations of a question and its answers name, each once."""
    spans = [spans for spans in (annotations or {}).values() if spans]
    return list(dict.fromkeys(str(target) for named in spans for target in named.values()))


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="gqa",
        about="train_balanced_questions.json, or else other *questions*.json (imageId, question, answer, annotations), "
        "*sceneGraphs*.json, and images/<imageId>.jpg",
        licence="CC BY 4.0 (not confirmed)",
        counts="not stated here",
        home="https://cs.stanford.edu/people/dorarad/gqa/download.html",
        rows=rows,
        draft=draft,
        ids=("question id",),
    ),
)
