"""Competitors that live in an environment of their own and answer line by line, so that ours and theirs alternate.

The protocol: a script gets its job as JSON on the command line; it prints one JSON line when it is ready, and then, for every line on its
standard input, does one repeat and prints one JSON line. Everything else that it says goes to a log.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent


def environment(folder: Path, requirements: str) -> Path:
    """The Python of an environment that holds exactly `requirements` (a file beside this one); made where it is missing or older."""
    python, installed, wanted = folder / "bin" / "python", folder / "requirements.txt", (HERE / requirements).read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {requirements} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(HERE / requirements)], check=True)
        installed.write_text(wanted)
    return python


class Peer:
    """A running competitor. Between two answers it waits and costs nothing."""

    def __init__(self, python: Path, script: str, job: Mapping[str, Any], threads: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.script, self.log = script, log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-P", str(HERE / script), json.dumps(job)],  # -P: files of this folder do not shadow packages
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        self.ready = self._line()

    def step(self) -> dict[str, Any]:
        """One repeat: what the competitor reports of it."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{self.script} ended with status {self.process.wait()}; its last words are in {self.log}")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # it reads an end of file and leaves
        self.process.wait()
