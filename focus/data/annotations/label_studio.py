"""Reads the full JSON export of Label Studio."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from focus.data.annotations.faults import BadAnnotation, Fault, Tally
from focus.data.annotations.image_names import file_name
from focus.data.annotations.regions import Question, Region, Unread, make_region, read_notes, read_number, read_size, read_text
from focus.data.boxes import Size

# The types of Label Studio's other shapes begin with these
NO_BOXES = ("polygon", "ellipse", "brush", "keypoint", "bitmask", "vector")


def read_label_studio(tasks: list, tally: Tally) -> Iterator[Unread]:
    """The question of every task; boxes are in percent of the image."""
    for number, task in enumerate(tasks, start=1):
        name = task.get("id", f"number {number}") if isinstance(task, dict) else f"number {number}"
        yield f"task {name}", partial(_task, task, f"task {name}", tally)


def _task(task: Mapping, location: str, tally: Tally) -> Question | None:
    annotation = _chosen(task.get("annotations") or [], location, tally)
    if annotation is None:
        return None
    location = f"{location}, annotation {annotation.get('id', '?')}"
    image, question_id = task["data"].get("image"), task["data"].get("question_id")
    if not isinstance(image, str) or not image:
        raise BadAnnotation(Fault.NO_IMAGE, "data.image", image)
    if question_id is not None and not read_text(question_id):
        raise BadAnnotation(Fault.BAD_QUESTION_ID, "data.question_id", question_id)
    results: dict[str, list[Mapping]] = {}
    links: list[tuple[str, str]] = []
    sizes: dict[Size | None, str] = {}
    for result in annotation["result"]:
        if result["type"] == "relation":
            links += _relation(result)
        elif "id" in result:
            results.setdefault(str(result["id"]), []).append(result)
    regions = []
    for name, parts in results.items():
        drawn = next((part for part in parts if {"x", "y", "width", "height"} <= part["value"].keys()), None)
        if drawn is not None:
            sizes[read_size(drawn.get("original_width"), drawn.get("original_height"), name)] = name
            regions.append(_label_studio_box(name, drawn, parts))
            links += [(name, str(parent)) for parent in {part["parentID"] for part in parts if part.get("parentID")}]
        elif any(part["type"].startswith(NO_BOXES) for part in parts):
            tally.add(Fault.NOT_RECTANGULAR, location, name, parts[0]["type"])
    if not regions:
        raise BadAnnotation(Fault.NO_BOX, f"annotation {annotation.get('id', '?')}", "result")
    sizes.pop(None, None)  # boxes that a program uploaded have no size
    if len(sizes) > 1:
        raise BadAnnotation(Fault.BAD_SIZE, "original_width", sizes)
    return Question(location, read_text(question_id) or None, file_name(image), next(iter(sizes), None), regions, links, in_percent=True)


def _chosen(annotations: list[Mapping], location: str, tally: Tally) -> Mapping | None:
    """The ground truth, else the newest annotation that was not cancelled; None if all were
    cancelled.
    """
    if not annotations:
        raise BadAnnotation(Fault.NOT_ANNOTATED, "annotations", annotations)
    usable: list[tuple[bool, str, int, Mapping]] = []
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            tally.add(Fault.CANCELLED, f"{location}, annotation {annotation.get('id', '?')}", "was_cancelled", True)
        else:
            when = annotation.get("updated_at") or annotation.get("created_at") or ""
            usable.append((bool(annotation.get("ground_truth")), str(when), len(usable), annotation))
    usable.sort(key=lambda item: item[:3])
    for *_, annotation in usable[:-1]:
        tally.add(Fault.SUPERSEDED, f"{location}, annotation {annotation.get('id', '?')}", "used", usable[-1][-1].get("id", "?"))
    return usable[-1][-1] if usable else None


def _relation(result: Mapping) -> list[tuple[str, str]]:
    """Pairs (inner, outer): the arrow points outward, and `direction` says at which end its head
    is.

    Two heads give both pairs, which is not a chain.
    """
    ends, direction = (str(result["from_id"]), str(result["to_id"])), result.get("direction", "right")
    return {"right": [ends], "left": [ends[::-1]]}.get(direction, [ends, ends[::-1]])


def _label_studio_box(name: str, drawn: Mapping, parts: Sequence[Mapping]) -> Region:
    """The region of the results that share its id: its rectangle, its labels, and per-region
    answers.
    """
    value, stated, labels = drawn["value"], {}, []
    for part in parts:
        for key in ("rectanglelabels", "labels"):
            labels += part["value"].get(key, [])
        answer = next((part["value"][key] for key in ("choices", "text", "number") if key in part["value"]), None)
        if part.get("from_name") in ("level", "chain") and answer is not None:
            stated[part["from_name"]] = " ".join(map(read_text, answer)) if isinstance(answer, list) else read_text(answer)
        meta = part.get("meta") or {}
        stated |= {key: read_text(meta[key]) for key in ("level", "chain") if key in meta}
        stated |= read_notes(meta["text"] if isinstance(meta.get("text"), list) else [meta.get("text", "")])
    x, y, width, height = (read_number(value[key]) for key in ("x", "y", "width", "height"))
    if read_number(drawn.get("image_rotation") or 0) != 0:
        raise BadAnnotation(Fault.ROTATED, f"{name}.image_rotation", drawn["image_rotation"])
    return make_region(name, (x, y, width, height), labels, stated, value.get("rotation"))
