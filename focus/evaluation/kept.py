"""Trajectories that a run keeps on disk: `trajectories/` in its folder, which `make lightbox` shows.

One table (parquet) for each kept update, probe and evaluation, `NAME.RANK.parquet`, with one row per
trajectory and arm. Pictures are PNG files in `images/`, named by a hash of their pixels, so equal ones
are stored once. A table adds at most `mib` of them: the questions after that keep texts and boxes.
An original that is a file is not copied, the row has its path.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from focus.data.boxes import area, coverage
from focus.data.sample import ImageFile
from focus.gap import View
from focus.grading.answers import normalise
from focus.model.prompts import Answer, Malformed
from focus.rewards import Example
from focus.rollout.trajectory import Crop, Trajectory, Turn
from focus.runtime import distributed
from focus.runtime.files import atomic_write

FOLDER = "trajectories"  # in the folder of a run
VERSION = 1  # of the columns. A table of another version is not read
KEY = b"focus.trajectories"  # of the parquet metadata: JSON of the version, `About` and the arms
ROWS_AT_ONCE = 256  # of a row group: opening one trajectory reads so many

_PICTURE = pa.struct([("hash", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("tokens", pa.int32())])
_BOX = pa.list_(pa.float64())
_TURN = pa.struct(
    [
        ("text", pa.string()),  # sampled
        ("tokens", pa.int32()),  # of the text
        ("action", pa.string()),  # crop, answer or malformed
        ("fault", pa.string()),  # of a malformed turn, else null
        ("box_view", _BOX),  # as the model wrote it, in the frame of its dialect
        ("box_px", _BOX),  # in pixels of the original
        ("reply", pa.string()),  # the tool's, null after the last turn
        ("reply_tokens", pa.int32()),
        ("crop", _PICTURE),  # null: the reply has none
    ]
)
_TERM = pa.struct(
    [("name", pa.string()), ("raw", pa.float64()), ("weight", pa.float64()), ("amount", pa.float64()), ("closed_gate", pa.string())]
)
# What a list of trajectories shows, filters and sorts by
LISTED = pa.schema(
    [
        ("id", pa.string()),
        ("arm", pa.string()),
        ("rollout", pa.int32()),  # its number in the group of its question
        ("question", pa.string()),
        ("answer", pa.string()),  # null: none was given
        ("accepted", pa.list_(pa.string())),
        ("right", pa.float64()),  # null: not graded
        ("status", pa.string()),
        ("crops", pa.int32()),
        ("area", pa.float64()),  # of the last crop, as a share of the original; null without a crop
        ("coverage", pa.float64()),  # of the innermost annotated boxes by the last crop; null without boxes or crop
        ("malformed", pa.bool_()),  # one of its turns can't be parsed
        ("same_with_noise", pa.bool_()),  # the answer stays the same with noise in place of the crop; null where that was not asked
        ("total", pa.float64()),
        ("advantage", pa.float64()),  # of its first turn
        ("spread", pa.float64()),  # largest minus smallest total of the group; 0 teaches nothing; null outside of training
        ("pictures", pa.bool_()),  # its pictures are kept
    ]
)
_SCHEMA = pa.schema(
    [
        *LISTED,
        ("source", pa.string()),
        ("scorer", pa.string()),
        ("options", pa.list_(pa.list_(pa.string()))),
        ("width", pa.int32()),  # of the original, px
        ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(_BOX))),  # box_px, a chain per target, smallest first
        ("original_hash", pa.string()),
        ("original_path", pa.string()),
        ("view", _PICTURE),
        ("prompt_tokens", pa.int32()),
        ("prefill", pa.string()),
        ("prefill_tokens", pa.int32()),
        ("turns", pa.list_(_TURN)),
        ("terms", pa.list_(_TERM)),
    ]
)


@dataclass(frozen=True)
class About:
    """What a table holds: `kind` is update, probe (inside training) or evaluation."""

    kind: str
    update: int | None  # after which it was played; None for an evaluation
    policy: str  # base or trained; empty inside training
    view: str  # name of the view; empty for that of the run

    @property
    def name(self) -> str:
        """Name of the table, and of its files before the rank."""
        words = [self.kind, f"{self.update:06d}" if self.update is not None else "", self.policy, self.view.replace(" ", "_")]
        return "_".join(word for word in words if word)


class Kept:
    """A table in the making: the part of it that this rank plays. `folder` is that of the run."""

    def __init__(self, folder: Path, about: About, mib: float) -> None:
        self.folder, self.about, self.rank = folder / FOLDER, about, distributed.rank()
        self._bytes_left = mib * 2**20
        self._hashes: set[str] = set()  # of the pictures that this table has paid for
        self._rows: list[dict[str, Any]] = []

    def rows_of(self, arms: Mapping[str, Trajectory], repeat: int = 0) -> dict[str, dict[str, Any]]:
        """The rows of one question by arm, without answers and grades. Its pictures are stored."""
        pictures = self._pictures_of(list(arms.values()))
        return {arm: self._row(t, pictures) | {"arm": arm, "rollout": repeat} for arm, t in arms.items()}

    def add(self, rows: Mapping[str, dict[str, Any]], answers: Mapping[str, str | None], right: Mapping[str, float]) -> None:
        """Add the `rows_of` a question: by arm the answer that was read, and its grade."""
        agrees = None
        if "noise" in rows and rows["own"]["crops"]:
            own, noise = answers["own"], answers["noise"]
            agrees = own is not None and noise is not None and normalise(own) == normalise(noise)
        for arm, row in rows.items():
            graded = {"answer": answers[arm], "right": _number(right.get(arm)), "same_with_noise": agrees if arm == "own" else None}
            self._rows.append(row | graded)

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the pictures of rows that an earlier start stored."""
        for row in rows:
            crops = [turn["crop"] for turn in row["turns"] if turn["crop"]]
            for digest in {row["original_hash"], *(picture["hash"] for picture in (row["view"], *crops))} - {None}:
                self._pay(digest)

    def add_update(self, examples: Sequence[Example], advantages: Sequence[float]) -> None:
        """Add the rollouts of an update, siblings side by side, with their rewards and advantages."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, example in enumerate(examples):
            groups[example.trajectory.group].append(i)
        for siblings in groups.values():
            pictures = self._pictures_of([examples[i].trajectory for i in siblings])
            totals = [examples[i].total for i in siblings if not math.isnan(examples[i].total)]
            for number, i in enumerate(siblings):
                row = self._row(examples[i].trajectory, pictures)
                row |= {"rollout": number, "advantage": _number(advantages[i]), "spread": max(totals) - min(totals) if totals else None}
                self._rows.append(row | _reward(examples[i]))

    def write(self) -> None:
        """Write the table; an earlier one of this name is replaced, of whatever number of ranks. One without rows is not written."""
        if self.rank == 0:
            for path in table_files(self.folder.parent).get(self.about.name, []):
                if int(path.name.split(".")[1]) >= distributed.ranks():
                    path.unlink()
        if not self._rows:
            return
        about = {"version": VERSION, **asdict(self.about), "arms": list(dict.fromkeys(row["arm"] for row in self._rows))}
        table = pa.Table.from_pylist(self._rows, _SCHEMA).replace_schema_metadata({KEY: json.dumps(about).encode()})
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"{self.about.name}.{self.rank}.parquet", durable=False) as partial:
            pq.write_table(table, partial, row_group_size=ROWS_AT_ONCE, compression="zstd")

    def _row(self, t: Trajectory, pictures: "_Pictures") -> dict[str, Any]:
        sample, crops = t.sample, t.crops
        last = crops[-1].box_px if crops else None
        covered = [coverage(last, chain[0]) for chain in sample.boxes] if last else []
        return {
            "id": sample.id,
            "arm": "own",
            "rollout": 0,
            "question": sample.question,
            "answer": t.answer,
            "accepted": list(sample.answers),
            "status": str(t.status),
            "crops": len(crops),
            "area": area(last) / (sample.width * sample.height) if last else None,
            "coverage": sum(covered) / len(covered) if covered else None,
            "malformed": any(isinstance(turn.action, Malformed) for turn in t.turns),
            "pictures": pictures.kept,
            "source": sample.source,
            "scorer": sample.scorer,
            "options": [list(option) for option in sample.options],
            "width": sample.width,
            "height": sample.height,
            "boxes": [[list(box) for box in chain] for chain in sample.boxes],
            "original_hash": pictures.original,
            "original_path": str(sample.image.path.resolve()) if isinstance(sample.image, ImageFile) else None,
            "view": pictures.of(t.view),
            "prompt_tokens": len(t.prompt_ids),
            "prefill": t.prefill,
            "prefill_tokens": len(t.prefill_ids),
            "turns": [_turn(turn, pictures) for turn in t.turns],
            "terms": [],
        }

    def _pictures_of(self, trajectories: Sequence[Trajectory]) -> "_Pictures":
        """The pictures of one question, stored if this table has room for all of them."""
        first = trajectories[0]
        views = {id(view): view for t in trajectories for view in (t.view, *map(_crop, t.turns)) if view}
        if self._bytes_left <= 0:
            return _Pictures({}, None, False)
        hashes = {key: self._store(view.image) for key, view in views.items()}
        return _Pictures(hashes, None if isinstance(first.sample.image, ImageFile) else self._store(_original(first)), True)

    def _store(self, image: Image.Image) -> str:
        """The hash of a picture, which is written if no file holds it yet."""
        pixels = image.convert("RGB")
        digest = hashlib.blake2b(f"{pixels.size}".encode() + pixels.tobytes(), digest_size=16).hexdigest()
        path = self._path(digest)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{digest}.{self.rank}.partial")  # two ranks may write the same picture
            pixels.save(partial, "PNG", compress_level=1)
            partial.replace(path)
        self._pay(digest)
        return digest

    def _path(self, digest: str) -> Path:
        return self.folder / "images" / f"{digest}.png"

    def _pay(self, digest: str) -> None:
        path = self._path(digest)
        if digest not in self._hashes and path.is_file():
            self._hashes.add(digest)
            self._bytes_left -= path.stat().st_size


@dataclass(frozen=True)
class _Pictures:
    """The stored pictures of one question."""

    hashes: Mapping[int, str]  # by the identity of the view or crop
    original: str | None
    kept: bool

    def of(self, view: View) -> dict[str, Any]:
        return {"hash": self.hashes.get(id(view)), "width": view.size[0], "height": view.size[1], "tokens": view.tokens}


def _original(t: Trajectory) -> Image.Image:
    """A drawn original. With gap=off crops are cut from the view, and the original is drawn again."""
    original = t.source if t.source.size == t.sample.size else t.sample.open()
    return original.reduced(original.size)


def _crop(turn: Turn) -> View | None:
    return turn.observation.crop if turn.observation else None


def _turn(turn: Turn, pictures: _Pictures) -> dict[str, Any]:
    action, crop, reply = turn.action, _crop(turn), turn.observation
    boxes = {"box_view": list(action.box_view), "box_px": list(action.box_px)} if isinstance(action, Crop) else {}
    return {
        "text": turn.text,
        "tokens": len(turn.ids),
        "action": "crop" if isinstance(action, Crop) else "answer" if isinstance(action, Answer) else "malformed",
        "fault": str(action.fault) if isinstance(action, Malformed) else None,
        "reply": reply.content if reply else None,
        "reply_tokens": len(reply.ids) if reply else None,
        "crop": pictures.of(crop) if crop else None,
        **boxes,
    }


def _reward(example: Example) -> dict[str, Any]:
    paid = example.payments
    terms = [
        {"name": name, "raw": _number(raw)}
        | (
            {"weight": paid[name].weight, "amount": _number(paid[name].amount), "closed_gate": paid[name].closed_gate}
            if name in paid
            else {}
        )
        for name, raw in example.terms.items()
    ]
    right = example.terms.get("accuracy")
    return {"terms": terms, "total": _number(example.total), "right": _number(right)}


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


# Reading


class BadTable(ValueError):
    """A table that can't be read; the sentence says why and what to do."""


def table_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each table of a run, by name, one for each rank. `folder` is that of the run."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((folder / FOLDER).glob("*.parquet")):
        found[path.name.split(".")[0]].append(path)
    return dict(found)


class Contents(NamedTuple):
    """What a file of a table holds."""

    about: About
    arms: list[str]
    rows: int


def read_contents(path: Path) -> Contents:
    """What a file holds. Raises BadTable for a damaged file and for another version."""
    with _reading(path) as file:
        return _contents(path, file)


def _contents(path: Path, file: pq.ParquetFile) -> Contents:
    content = json.loads((file.metadata.metadata or {}).get(KEY, b"{}"))
    version, arms = content.pop("version", None), content.pop("arms", [])
    if version != VERSION:
        raise BadTable(
            f"{path.name} has version {version} of the columns of trajectories, this focus reads version {VERSION}; open it with the "
            "version of focus that wrote it"
        )
    return Contents(About(**content), arms, file.metadata.num_rows)


def read_listed(path: Path) -> pa.Table:
    """What a list shows of all rows of a file. Raises BadTable as `read_contents` does."""
    with _reading(path) as file:
        _contents(path, file)
        return file.read(LISTED.names)


def read_row(path: Path, row: int) -> dict[str, Any]:
    """One whole row of a file. Raises BadTable as `read_contents` does, and for a row that it does not have."""
    with _reading(path) as file:
        _contents(path, file)
        if not 0 <= row < file.metadata.num_rows:
            raise BadTable(f"{path.name} has {file.metadata.num_rows} rows; row {row} is not one of them")
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                return file.read_row_group(group).slice(row, 1).to_pylist()[0]
            row -= size
    raise AssertionError("the rows of the groups add up to those of the file")


class _reading:
    """Opens a parquet file; what it can't read becomes BadTable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> pq.ParquetFile:
        try:
            self.file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise self._bad(error) from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, OSError | pa.ArrowException | KeyError):
            raise self._bad(error) from error

    def _bad(self, error: BaseException) -> BadTable:
        return BadTable(
            f"{self.path.name} can't be read ({str(error).splitlines()[0][:200]}): it is damaged or was removed; the others are shown"
        )
