"""Questions of your own: a table with the columns image, question and answers, or a file written for
TRL, verl, ms-swift or LLaVA.

Everything else of a record is derived: id and source from the file, the size from the image, the
scorer from the answer. Options may stand in a column or inside the question. Columns of other names
are given by `columns`, from a name of ours to the file's.
"""

import difflib
import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from focus.data.boxes import Box
from focus.data.choices import Options
from focus.data.readers.cof import user_text
from focus.data.readers.draft import ROW_ID, UNREAD, Bad, Draft, Location, Published, Reason
from focus.data.readers.tables import rows_of
from focus.data.readers.text import box_of, image_bytes, meta_fields, parse_list
from focus.data.readers.training import only_image, training_draft
from focus.data.sample import SCORERS

NEEDED = ("image", "question", "answers")
COLUMNS = (*NEEDED, "scorer", "options", "boxes", "id", "split", "group", "category")
# What others call a column, in the order in which they are tried
USUAL = {
    "image": ("image", "images"),
    "question": ("question", "problem", "prompt", "messages", "conversations"),
    "answers": ("answers", "answer", "solution", "reward_model"),
}
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
CHATS = ("messages", "conversations")  # hold the answer too, where no column has it
SIMILAR = {
    "image": ("image_path", "img", "img_path", "picture", "path", "file", "filename", "image_file"),
    "question": ("query", "text", "instruction", "input", "q"),
    "answers": ("label", "labels", "target", "gt", "ground_truth", "output", "response", "a"),
}


def is_canonical(path: Path) -> bool:
    """Whether a file of JSON lines holds canonical records: its first line has a `schema`."""
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"{}")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return True  # the reader of records says what is wrong
    return not isinstance(record, dict) or "schema" in record


def own_set(path: Path, columns: Mapping[str, str]) -> Published:
    """A table of your own as a set that `ingest` reads.

    Raises ValueError, with all columns of the first row, where image, question or answers are not
    found.
    """
    source = "".join(c if c.isalnum() or c in "._-" else "_" for c in path.stem)
    _check_columns(path, columns)

    def rows(root: Path) -> Iterator[tuple[Location, dict]]:
        for location, row in rows_of(path, spare=True):
            stored = row.get(columns.get("id", "id"))
            own = stored if isinstance(stored, str | int) and not isinstance(stored, bool) and stored != "" else location.row
            yield location, row | {ROW_ID: str(own)}

    stamp = path.stat()
    return Published(
        source=source,
        about=f"{path}: the columns image, question, answers (docs/data.md)",
        licence="your own",
        counts="not published",
        rows=rows,
        draft=lambda row: _draft(row, columns, path.parent),
        identity=json.dumps([str(path.resolve()), stamp.st_size, stamp.st_mtime_ns, dict(columns)]),
    )


def cache_folder(path: Path, columns: Mapping[str, str], root: Path, parent: Path) -> Path:
    """Where the records of a table are cached: one folder for each file, mapping and image folder."""
    parts = repr((str(path.resolve()), sorted(columns.items()), str(root.resolve())))
    return parent / "own" / f"{path.stem}-{hashlib.blake2b(parts.encode(), digest_size=4).hexdigest()}"


def _check_columns(path: Path, columns: Mapping[str, str]) -> None:
    first = next((row for _, row in islice(rows_of(path, spare=True), 1)), {})
    if not first:
        raise ValueError(f"{path} has no rows; write one JSON object per line, or a header and rows (docs/data.md)")
    if UNREAD in first:
        return  # counted by the reader
    if lost := [f"{theirs} (for {ours})" for ours, theirs in columns.items() if theirs not in first]:
        raise ValueError(f"data.columns names {', '.join(lost)}, but {path} has the columns {', '.join(first)}")
    missing = [name for name in NEEDED if _column(first, name, columns) is None]
    if missing == ["answers"] and any(name in first for name in CHATS):
        return
    if missing:
        guesses = {name: _similar(name, first) for name in missing}
        mapping = ", ".join(f"{name}: {guess or 'COLUMN'}" for name, guess in guesses.items())
        raise ValueError(
            f"{path} has the columns {', '.join(first) or '(none)'}; a question needs image, question and answers. "
            f"Not found: {', '.join(missing)}. Name the columns: "
            f"data.columns='{{{mapping}}}' (docs/data.md)"
        )


def _similar(name: str, row: Mapping[str, object]) -> str | None:
    exact = [column for column in row if column.casefold() in SIMILAR[name]]
    close = difflib.get_close_matches(name, list(row), n=1)
    return next(iter([*exact, *close]), None)


def _column(row: Mapping[str, object], name: str, columns: Mapping[str, str]) -> str | None:
    """The column of this row that holds a field of ours; None if there is none."""
    names = (columns[name],) if name in columns else USUAL.get(name, (name,))
    return next((each for each in names if each in row), None)


def _draft(row: Mapping, columns: Mapping[str, str], folder: Path) -> Draft:
    def stored(name: str) -> Any:
        column = _column(row, name, columns)
        return None if column is None else row[column]

    asked, image = stored("question"), only_image(stored("image"), "image")
    if asked is None:
        raise Bad(Reason.NO_QUESTION, "question", "null")
    if isinstance(image, str) and image.startswith("data:"):
        image = image_bytes(image, "image")
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise Bad(Reason.NO_IMAGE, "image", f"{image[:50]} is an address: download it")
    if isinstance(image, str) and Path(image).is_absolute():
        image = _relative(image, folder)
    answers, key = _answers(row, stored("answers"), asked)
    draft = training_draft(_question(asked), answers, image, key, _options(stored("options")))
    scorer = stored("scorer")
    if scorer is not None and scorer not in SCORERS:
        raise Bad(Reason.BAD_VALUE, columns.get("scorer", "scorer"), f"{str(scorer)[:20]}; there are {', '.join(SCORERS)}")
    return Draft(
        split=str(stored("split") or "train"),
        image=draft.image,
        question=draft.question,
        answers=draft.answers,
        scorer=scorer or draft.scorer,
        options=draft.options,
        chains=_chains(stored("boxes")),
        box_origin="human",
        group=str(stored("group") or ""),
        meta=meta_fields(row, "category"),
        raw=draft.raw,
    )


def _relative(image: str, folder: Path) -> str:
    """An absolute path as one that is relative to the folder of images. Raises Bad where it lies elsewhere."""
    try:
        return str(Path(image).resolve().relative_to(folder.resolve()))
    except ValueError as error:
        raise Bad(Reason.OUTSIDE_ROOT, "image", image) from error


def _question(stored: object) -> str:
    """The user's words of a prompt: a text, messages (TRL, verl, ms-swift) or a conversation (LLaVA)."""
    if isinstance(stored, str):
        return stored
    if not isinstance(stored, list):
        raise Bad(Reason.BAD_VALUE, "question", f"{str(stored)[:40]}, neither a text nor messages")
    turns = [_turn(turn) for turn in stored]
    return user_text(turns[: next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))])


def _turn(turn: object) -> Mapping[str, str]:
    """One turn as role and text, without the parts that are images."""
    if not isinstance(turn, Mapping):
        raise Bad(Reason.BAD_VALUE, "question", turn)
    role = str(turn.get("role") or turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content if isinstance(part, Mapping) and part.get("text"))
    return {"role": {"human": "user", "gpt": "assistant"}.get(role, role), "content": str(content or "")}


def _answers(row: Mapping, stored: object, asked: object) -> tuple[list[object], str]:
    """The accepted answers and their column: a text, a number, a list, verl's ground truth, or the first reply of a chat."""
    if isinstance(stored, Mapping):  # verl: {"style": "rule", "ground_truth": ...}
        stored = stored.get("ground_truth")
    if stored is None and isinstance(asked, list):
        replies = [turn["content"] for turn in map(_turn, asked) if turn["role"] == "assistant"]
        stored = replies[0] if replies else None
    return [_untagged(each) for each in (stored if isinstance(stored, list) else [stored])], "answers"


def _untagged(answer: object) -> object:
    """An answer without the `<answer>` tags that the solutions and replies of other trainers have around it, and what stands before."""
    tagged = TAGGED.findall(answer) if isinstance(answer, str) else []
    return tagged[-1].strip() if tagged else answer


def _options(stored: object) -> Options:
    """Options as texts in their order, as `{"key", "text"}`, or as a mapping from key to text."""
    if stored is None:
        return ()
    if isinstance(stored, Mapping):
        return tuple((str(key), str(text)) for key, text in stored.items())
    listed = parse_list(stored, "options")
    if all(isinstance(each, Mapping) for each in listed):
        return tuple((each["key"], each["text"]) for each in listed)
    if len(listed) > len(string.ascii_uppercase):
        raise Bad(Reason.BAD_VALUE, "options", f"{len(listed)} options, at most {len(string.ascii_uppercase)} have a letter")
    return tuple(zip(string.ascii_uppercase, map(str, listed), strict=False))


def _chains(stored: object) -> tuple[tuple[Box | None, ...], ...]:
    """One box, a list of boxes (one per target), or a list of chains (nested boxes, smallest first)."""
    if stored is None:
        return ()
    listed = parse_list(stored, "boxes")
    if listed and not isinstance(listed[0], list):
        return ((box_of(listed, "boxes"),),)
    return tuple(
        tuple(box_of(box, "boxes") for box in each) if each and isinstance(each[0], list) else (box_of(each, "boxes"),) for each in listed
    )
