"""The room Look: runs, and the trajectories that they keep (`evaluation.kept`).

A trajectory is named by its file and row: `update_000020.0:17`. Lists come from the light columns of the
tables, which stay in memory while their files do not change; one trajectory is read from disk when it
is opened.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, HTTPException, Query

from focus.evaluation.kept import FOLDER, LISTED, About, BadTable, Contents, read_contents, read_listed, read_row, table_files
from focus.grading.answers import RIGHT_FROM
from focus.lightbox.places import Places
from focus.training.history import read_history

DEEPEST = 6  # folders between a given folder and a run
NO_RUNS_IN = {FOLDER, "checkpoints", "policy", "csv", "tensorboard", "wandb", "node_modules", "images", "__pycache__"}
ROWS_IN_MEMORY = 1_000_000
MOST_AT_ONCE = 200  # trajectories of one answer
LONGEST_TEXT = 300  # characters of a question or an answer in a list
MISSED_BELOW = 0.5  # a crop that covers less of the evidence has missed it

# Which rows of a table a filter keeps; null counts as no
FILTERS: dict[str, Callable[[pa.Table], pa.ChunkedArray]] = {
    "right": lambda rows: pc.greater_equal(rows["right"], RIGHT_FROM),
    "wrong": lambda rows: pc.less(rows["right"], RIGHT_FROM),
    "with_crop": lambda rows: pc.greater(rows["crops"], 0),
    "without_crop": lambda rows: pc.equal(rows["crops"], 0),
    "missed": lambda rows: pc.less(rows["coverage"], MISSED_BELOW),
    "same_with_noise": lambda rows: rows["same_with_noise"],
    "level_group": lambda rows: pc.equal(rows["spread"], 0),
    "malformed": lambda rows: rows["malformed"],
    "with_pictures": lambda rows: rows["pictures"],
}
SORTS = {
    "": None,
    "largest_box": ("area", "descending"),
    "smallest_box": ("area", "ascending"),
    "least_covered": ("coverage", "ascending"),
    "lowest_reward": ("total", "ascending"),
    "highest_reward": ("total", "descending"),
    "largest_advantage": ("advantage", "descending"),
    "smallest_advantage": ("advantage", "ascending"),
}
ORDER = {"update": 0, "probe": 1, "evaluation": 2}


def router(places: Places) -> APIRouter:
    """The router of the room, under /api/look."""
    routes, lists = APIRouter(prefix="/api/look"), _Lists()

    def folder_of(run: str) -> Path:
        folder = places.path(run)
        if not folder.is_dir():
            raise HTTPException(404, f"{run} is no folder")
        return folder

    @routes.get("/runs")
    def runs() -> dict[str, Any]:
        """All runs of the given folders, the last changed first."""
        found = [run for folder in places.folders for run in _runs(places, folder)]
        return {"runs": sorted(found, key=lambda run: -run["changed"]), "folders": [str(folder) for folder in places.folders]}

    @routes.get("/tables")
    def tables(run: str) -> dict[str, Any]:
        """What a run keeps: its tables in the order of training, the arms in them, and what can't be read."""
        folder = folder_of(run)
        found, problems = _tables(folder, lists)
        arms = dict.fromkeys(arm for table in found for arm in table["arms"])
        listed = [{key: value for key, value in table.items() if key != "files"} for table in found]
        note = "" if found or problems else _nothing_kept(folder)
        history = (folder / "history.jsonl").is_file()
        return {"tables": listed, "arms": list(arms), "problems": problems, "note": note, "history": history}

    @routes.get("/rows")
    def rows(
        run: str,
        table: str = "all",
        arm: str = "own",
        filters: Annotated[str, Query(alias="filter")] = "",
        sort: str = "",
        search: str = "",
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 50,
    ) -> dict[str, Any]:
        """Trajectories of one table, of all tables of a kind (`update`, `probe`, `evaluation`), or of `all`."""
        chosen = [name for name in filters.split(",") if name]
        if unknown := [name for name in chosen if name not in FILTERS]:
            raise ValueError(f"there is no filter {unknown[0]}; there are {', '.join(FILTERS)}")
        if sort not in SORTS:
            raise ValueError(f"there is no order {sort}; there are {', '.join(filter(None, SORTS))}")
        folder = folder_of(run)
        found, problems = _tables(folder, lists)
        paths = [path for each in found if table in ("all", each["name"], each["kind"]) for path in each["files"]]
        listed = lists.together(paths, problems)
        # Masks first: of the rows themselves only one page is copied
        among = pc.equal(listed["arm"], arm)
        if search:
            texts = [pc.match_substring(listed[column], search, ignore_case=True) for column in ("question", "answer", "id")]
            among = pc.and_(among, pc.or_kleene(pc.or_kleene(texts[0], texts[1]), texts[2]))
        masks = {name: pc.and_kleene(among, condition(listed)) for name, condition in FILTERS.items()}
        if not any((folder / FOLDER).glob("images/*.png")):  # they were removed
            masks["with_pictures"] = pc.and_(masks["with_pictures"], False)
        kept = among
        for name in chosen:
            kept = pc.and_kleene(kept, masks[name])
        if key := SORTS[sort]:
            kept = pc.and_kleene(kept, pc.is_valid(listed[key[0]]))
        places_of = pc.indices_nonzero(pc.fill_null(kept, False))
        if key:
            places_of = places_of.take(pc.array_sort_indices(listed[key[0]].take(places_of), order=key[1]))
        page = [_listed(row) for row in listed.take(places_of.slice(start, count)).to_pylist()]
        counts = {name: pc.sum(mask).as_py() or 0 for name, mask in masks.items()}
        return {"rows": page, "count": len(places_of), "total": pc.sum(among).as_py() or 0, "counts": counts, "problems": problems}

    @routes.get("/trajectory")
    def trajectory(run: str, at: str) -> dict[str, Any]:
        """One trajectory with the other arms of its question and its siblings."""
        folder = folder_of(run)
        path, row = _place(folder, at)
        about = lists.contents(path).about
        whole = read_row(path, row)
        listed = lists.of(path)
        same = listed.filter(pc.field("id") == whole["id"]).to_pylist()
        arms = [(each["at"], read_row(path, each["row"])) for each in same if each["arm"] != whole["arm"] and about.kind != "update"]
        siblings = [_listed(each) for each in same] if about.kind == "update" else []
        return {
            "table": _described(about),
            **_whole(places, folder, at, whole),
            "arms": [_whole(places, folder, name, each) for name, each in arms],
            "siblings": siblings,
        }

    @routes.get("/same")
    def same(run: str, sample: str) -> dict[str, Any]:
        """The trajectories of a question in every table of a run, in the order of training."""
        found, problems = _tables(folder_of(run), lists)
        titles = {table["name"]: table["title"] for table in found}
        listed = lists.together([path for table in found for path in table["files"]], problems)
        of_sample = listed.filter(pc.and_(pc.equal(listed["id"], sample), pc.equal(listed["arm"], "own")))
        rows = [{**_listed(row), "title": titles[row["at"].partition(".")[0]]} for row in of_sample.to_pylist()]
        return {"rows": rows, "problems": problems}

    @routes.get("/history")
    def history(run: str) -> dict[str, Any]:
        """The curves of a run: the updates, and the values of every series (null where there is none)."""
        written = sorted(read_history(folder_of(run) / "history.jsonl"), key=lambda row: row["update"])
        names = sorted({name for row in written for name in row} - {"update", "epoch", "step"})
        series = {name: [_number(row.get(name)) for row in written] for name in names}
        return {"updates": [row["update"] for row in written], "series": series}

    return routes


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _runs(places: Places, given: Path) -> Iterator[dict[str, Any]]:
    """The folders below a given one that hold a history or kept trajectories."""
    for name, folders, files in os.walk(given):
        folder = Path(name)
        depth = len(folder.relative_to(given).parts)
        if FOLDER in folders or "history.jsonl" in files:
            marks = [folder / "history.jsonl"] * ("history.jsonl" in files) + [folder / FOLDER] * (FOLDER in folders)
            changed = max((mark.stat().st_mtime for mark in marks if mark.exists()), default=0.0)
            title = folder.relative_to(given).as_posix()
            kept = len(table_files(folder))
            yield {"name": places.name(folder), "title": given.name if title == "." else title, "tables": kept, "changed": changed}
        folders[:] = [each for each in folders if each not in NO_RUNS_IN and not each.startswith(".") and depth < DEEPEST]


def _nothing_kept(folder: Path) -> str:
    if (folder / "running.lock").is_file():
        return (
            "This run has kept no trajectories yet. It keeps those of every report.trajectories_every-th update, of probes and evaluations."
        )
    if (folder / FOLDER).is_dir():
        return "What it played was interrupted before it was whole. The same command goes on, and its trajectories are here at the end."
    return (
        "This run keeps no trajectories: it was made by an earlier version of focus, it ended before its first kept update, or its folder "
        f"{FOLDER}/ was removed."
    )


def _tables(folder: Path, lists: "_Lists") -> tuple[list[dict[str, Any]], list[str]]:
    """The tables of a run in the order of training, each with its files, and a sentence for each file that can't be read."""
    found, problems = [], []
    for name, paths in table_files(folder).items():
        parts: dict[Path, Contents] = {}
        for path in paths:
            try:
                parts[path] = lists.contents(path)
            except BadTable as error:
                problems.append(str(error))
        if parts:
            arms = list(dict.fromkeys(arm for part in parts.values() for arm in part.arms))
            rows = sum(part.rows for part in parts.values())
            about = next(iter(parts.values())).about
            found.append({"name": name, "rows": rows, "arms": arms, "files": list(parts), **_described(about)})
    return sorted(found, key=lambda table: (ORDER.get(table["kind"], 9), table["update"] or 0, table["name"])), problems


def _described(about: About) -> dict[str, Any]:
    title = {
        "update": f"Update {about.update}",
        "probe": f"Probe after update {about.update}",
    }.get(about.kind, ", ".join(part for part in (about.policy, about.view) if part).capitalize())
    return {**asdict(about), "title": title}


def _place(folder: Path, at: str) -> tuple[Path, int]:
    """The file and the row that a name like `update_000020.0:17` stands for."""
    name, _, row = at.rpartition(":")
    paths = {path.name.removesuffix(".parquet"): path for paths in table_files(folder).values() for path in paths}
    if name not in paths or not row.isdecimal():
        raise HTTPException(404, f"{at} is no trajectory of this run (any more)")
    return paths[name], int(row)


_EMPTY = pa.schema([*LISTED, ("row", pa.int64()), ("at", pa.string())]).empty_table()
_State = tuple[str, int, int]  # of a file: path, bytes, time of change


class _Lists:
    """What was read of tables: their contents, and their light columns with `at` and `row`. Held while the files do not change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._contents: dict[_State, Contents] = {}
        self._held: OrderedDict[_State, pa.Table] = OrderedDict()
        self._together: tuple[list[_State], pa.Table] = ([], _EMPTY)  # the last one that was asked for

    def contents(self, path: Path) -> Contents:
        """What a file holds. Raises BadTable."""
        state = _state(path)
        if state not in self._contents:
            self._contents[state] = read_contents(path)
        return self._contents[state]

    def of(self, path: Path) -> pa.Table:
        """The rows of one file. Raises BadTable."""
        state = _state(path)
        with self._lock:
            if state in self._held:
                self._held.move_to_end(state)
                return self._held[state]
        listed = read_listed(path)
        rows = pa.array(range(listed.num_rows), pa.int64())
        names = pc.binary_join_element_wise(path.name.removesuffix(".parquet"), pc.cast(rows, pa.string()), ":")
        listed = listed.append_column("row", rows).append_column("at", names)
        with self._lock:
            self._held[state] = listed
            while sum(table.num_rows for table in self._held.values()) > ROWS_IN_MEMORY and len(self._held) > 1:
                self._held.popitem(last=False)
        return listed

    def together(self, paths: Sequence[Path], problems: list[str]) -> pa.Table:
        """The rows of several files. One that can't be read is left out, its sentence goes to `problems`."""
        states, whole = [], []
        for path in paths:
            try:
                states.append(_state(path))
                whole.append(path)
            except BadTable as error:
                problems.append(str(error))
        if self._together[0] == states:
            return self._together[1]
        parts = []
        with ThreadPoolExecutor() as readers:
            for part in [readers.submit(self.of, path) for path in whole]:
                try:
                    parts.append(part.result())
                except BadTable as error:
                    problems.append(str(error))
        table = pa.concat_tables(parts).combine_chunks() if parts else _EMPTY
        if len(parts) == len(states):
            self._together = (states, table)
        return table


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError as error:
        raise BadTable(f"{path.name} was removed") from error
    return (str(path), status.st_size, status.st_mtime_ns)


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a list, its texts cut to what fits there."""
    shown = {key: value for key, value in row.items() if key not in ("row", "accepted")}
    return shown | {key: shown[key] and shown[key][:LONGEST_TEXT] for key in ("question", "answer")}


def _whole(places: Places, folder: Path, at: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with names of its pictures in place of their hashes; null where a picture is not there."""

    def picture(digest: str | None) -> str | None:
        path = folder / FOLDER / "images" / f"{digest}.png"
        return places.name(path) if digest and path.is_file() else None

    def named(view: dict[str, Any] | None) -> dict[str, Any] | None:
        return view and {**view, "picture": picture(view["hash"])}

    original, problem = picture(row["original_hash"]), ""
    if path := row["original_path"]:
        original = places.name(Path(path))
        if original is None:
            given = ",".join(map(str, [*places.folders, Path(path).parent]))
            problem = f'The original is {path}, outside of the folders of this page. Start it with: make lightbox ARGS="folders=[{given}]"'
        elif not Path(path).is_file():
            original, problem = None, f"The original was {path}, where no file is any more."
    elif original is None:
        problem = "The pictures of this question are not here: a table keeps at most report.kept_mib of them, or they were removed."
    turns = [{**turn, "crop": named(turn["crop"])} for turn in row["turns"]]
    return {**row, "at": at, "view": named(row["view"]), "turns": turns, "original": original, "problem": problem}
