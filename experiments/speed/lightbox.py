"""The room Look with 100,000 trajectories on disk: CPU seconds of what the page asks for.

A run of 250 kept updates with 400 trajectories each is written, then a server in this process answers what the page asks. `first page` is
everything that the page asks for when it is opened, with nothing in memory, and `all tables` the first list of all of them. The other
rows are single requests after these, over all 100,000. Seconds are CPU seconds of server and client together, which other processes do
not change; on a free machine the wait is no longer.

    python -m experiments.speed.lightbox
"""

import json
import shutil
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.speed.timing import REPEATS, spread, write
from focus.evaluation.kept import KEY, About, Kept, table_files
from focus.lightbox.look import router
from focus.rewards import examples, score
from tests.support.examples import answered, opened, zoomed
from tests.support.lightbox import served
from tests.support.trajectories import stage1

UPDATES, ROWS = 250, 400
PAGE = ("look", "web/common.css", "web/look.css", "web/common.js", "web/look.js", "api/look/runs")


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads, during one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def write_run(folder: Path) -> None:
    """One update is played by hand; the tables hold copies of its rows under other ids, numbers and answers."""
    begun = opened(3)
    played = [answered(zoomed(begun, (112.0, 112.0, 224.0, 224.0)), begun.sample.answers[0]), answered(begun, "nothing")]
    kept = Kept(folder, About("update", 0, "", ""), mib=8)
    kept.add_update(examples(played, score(stage1(), played)), [1.0, -1.0])
    kept.write()
    [[path]] = table_files(folder).values()
    rows = pq.read_table(path).to_pylist()
    schema = pq.read_schema(path)
    for update in range(1, UPDATES + 1):
        copies = [
            row | {"id": f"question {update * ROWS // 8 + i // 8}", "rollout": i % 8, "area": (i * 37 % 100) / 100}
            for i in range(ROWS)
            for row in [rows[i % 2]]
        ]
        about = json.loads(schema.metadata[KEY]) | {"update": update}
        table = pa.Table.from_pylist(copies, schema.with_metadata({KEY: json.dumps(about)}))
        pq.write_table(table, path.with_name(f"update_{update:06d}.0.parquet"), row_group_size=256, compression="zstd")
    path.unlink()


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    write_run(scratch / "outputs/run")
    requests = {
        "all tables": {},
        "filter: wrong and without a crop": {"filter": "wrong,without_crop"},
        "order: largest box": {"sort": "largest_box"},
        "search in questions and answers": {"search": "nothing"},
    }
    last = {"table": f"update_{UPDATES:06d}"}
    measured: dict[str, list[float]] = {name: [] for name in ("first page", *requests, "a trajectory")}
    for _ in range(REPEATS):
        with served([scratch / "outputs"], lambda places, _: router(places)) as url:

            def get(path: str, **query: str) -> bytes:
                asked = f"?{urllib.parse.urlencode({'run': '0/run', **query})}" if path.startswith("api/") else ""
                return urllib.request.urlopen(f"{url}/{path}{asked}").read()

            def first_page(get: Callable[..., bytes] = get) -> None:
                for path in (*PAGE, "api/look/tables", "api/look/tables", "api/look/history"):
                    get(path)
                get("api/look/rows", **last)

            measured["first page"].append(cpu_seconds(first_page))
            for name, query in requests.items():
                measured[name].append(cpu_seconds(partial(get, "api/look/rows", **query)))
            measured["a trajectory"].append(cpu_seconds(partial(get, "api/look/trajectory", at="update_000125.0:399")))
    shutil.rmtree(scratch)
    write("lightbox", {"trajectories": UPDATES * ROWS, "cpu_seconds": {name: spread(values) for name, values in measured.items()}})


if __name__ == "__main__":
    main()
