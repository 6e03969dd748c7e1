"""What one GPU says to the claims of this project: `python -m experiments.gpu.check` (`make gpu-check`).

It takes at most eight minutes and no network: weights and rollouts are random, sizes are those of Qwen2.5-VL-7B. `results.json` is written
after every section. A section that fails leaves its error there, the others go on, and the exit status is 1. `--tiny` runs all at toy
size, on a CPU too.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.gpu.bench import REAL, TOY, Bench
from experiments.gpu.sections import SECTIONS
from focus.report.provenance import machine, this_start

LAST_START_S = 390.0  # no section begins later


def run(bench: Bench, sections: Mapping[str, Any], last_start_s: float = LAST_START_S) -> dict[str, Any]:
    """The record of these sections."""
    began = time.monotonic()
    record: dict[str, Any] = {"commit": this_start().commit, "machine": machine(), "sections": {}}
    bench.output.mkdir(parents=True, exist_ok=True)
    for name, section in sections.items():
        start = time.monotonic()
        entry: dict[str, Any] = {}
        record["sections"][name] = entry
        if start - began > last_start_s:
            entry["not run"] = f"it would have begun after {start - began:.0f} s; none begins after {last_start_s:.0f}"
        else:
            entry["found"] = {}
            try:
                for key, value in section(bench):
                    entry["found"][key] = value
            except Exception as error:  # the record of a failed section is its error, and the exit status is 1
                entry["error"] = "".join(traceback.format_exception(error))[-3000:]
            entry["s"] = round(time.monotonic() - start, 1)
        print(name, json.dumps(entry, indent=1), flush=True)
        (bench.output / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        bench.free()
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"only these: {', '.join(SECTIONS)}")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check"), help="folder of results.json")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.sections) - set(SECTIONS)):
        parser.error(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if not (chosen.tiny or torch.cuda.is_available()):
        parser.error("PyTorch sees no GPU here, and a 7B policy needs one of 80 GB; --tiny runs every section at toy size on a CPU")
    sections = {name: SECTIONS[name] for name in chosen.sections or SECTIONS}
    record = run(Bench(TOY if chosen.tiny else REAL, chosen.output), sections)
    failed = [name for name, entry in record["sections"].items() if "error" in entry]
    print(f"gpu-check: {chosen.output / 'results.json'}; failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
