"""How the drivers of this folder start, stop and compare runs.

A command is run in a fork of a process that has imported everything and has done nothing: what happens in it is what `python -m` does
(command line, Hydra, signals, exit status), without the seconds that the imports take. Pages are drawn without their charts. The command
speaks into a pipe. Linux only.
"""

import atexit
import ctypes
import errno
import hashlib
import importlib
import json
import mmap
import os
import pickle
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}

IMPORTED = (
    "focus.train",
    "focus.calibrate",
    "focus.evaluate",
    "focus.probe",
    "tests.support.policies",
    "tests.support.updates",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen2.tokenization_qwen2",
    "matplotlib.pyplot",
    "pyarrow.parquet",
)
ROOT = Path(__file__).parents[2]
ENDS_WITHIN_S = 60.0  # a process that was signalled and has not ended by then hangs
POLL_S = 0.005
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def imported() -> None:
    """Import what the commands need. A process that forks must have no thread but that of Arrow's allocator, which knows about forks."""
    os.environ |= ENVIRONMENT  # before torch is loaded, which reads it once
    for name in IMPORTED:
        importlib.import_module(name)
    from focus.report import page

    page._svg = lambda *_: ""  # some 50 charts are half the seconds of a short run, and change no file
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if len(threads) - threads.count("jemalloc_bg_thd") > 1:
        raise SystemExit(f"there are threads in the process that forks: {', '.join(threads)}")


@dataclass(frozen=True)
class Fault:
    """What goes wrong inside a process.

    `operation`: the number (from 1) of the change of the folder before which it happens: a file opened to write, renamed, removed, a
    folder made. `kind`: "kill" (SIGKILL), or the name of an errno, which this and every later such change then raises. `longest`: a file
    may have so many bytes; the kernel kills whoever writes more, in the middle of that write.
    """

    operation: int | None = None
    kind: str = "kill"
    longest: int | None = None


@dataclass
class Child:
    """A started command: its processes (one for each rank), what it has said, and how many changes of the folder it has begun."""

    pids: list[int]
    pipe: int
    count: mmap.mmap
    began: float = field(default_factory=time.monotonic)
    said: bytes = b""
    ended: dict[int, int] = field(default_factory=dict)  # process -> its wait status

    def poll(self, wait_s: float = POLL_S) -> bool:
        """Take what was said and who has ended; whether all have."""
        ready, _, _ = select.select([self.pipe], [], [], wait_s)
        if ready:
            self.said = (self.said + os.read(self.pipe, 65536))[-1_000_000:]
        for pid in self.pids:
            if pid not in self.ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.ended[pid] = status
        return len(self.ended) == len(self.pids)

    def wait(self, seconds: float) -> bool:
        """Whether all processes have ended within so many seconds."""
        until = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > until:
                return False
        return True

    def signal(self, which: signal.Signals, pids: Sequence[int] = ()) -> None:
        """Signal these processes, or all that have not ended."""
        for pid in pids or self.pids:
            if pid not in self.ended:
                os.kill(pid, which)

    def close(self) -> None:
        """End what is left, and take the last words."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # workers that it started
        while not self.poll():
            pass
        while select.select([self.pipe], [], [], 0)[0] and (more := os.read(self.pipe, 65536)):
            self.said += more
        os.close(self.pipe)

    @property
    def operations(self) -> int:
        return int.from_bytes(self.count[:8], "little")

    @property
    def status(self) -> int:
        """The worst exit status; minus the signal's number for a process that a signal ended."""
        return max((os.waitstatus_to_exitcode(status) for status in self.ended.values()), key=abs)

    @property
    def text(self) -> str:
        return self.said.decode(errors="replace").replace("\r", "\n")


def start(module: str, words: Sequence[str], folder: Path, fault: Fault | None = None, ranks: int = 1, forked: bool = True) -> Child:
    """Begin `python -m module words` in the working folder of this process; `folder` is the one whose changes count.

    Not `forked`: in a new interpreter, as a shell does it; changes are then not counted and faults not injected.
    """
    read, write = os.pipe()
    count = mmap.mmap(-1, 8)
    port = _free_port()
    pids = []
    sys.stdout.flush()
    for rank in range(ranks):
        pid = os.fork()
        if not pid and not forked:
            _prepare(write)
            os.execve(sys.executable, [sys.executable, "-m", module, *words], os.environ | {"PYTHONPATH": str(ROOT)})
        if not pid:
            _become(module, words, folder, fault, count, write, (rank, port) if ranks > 1 else None)
        pids.append(pid)
    os.close(write)
    return Child(pids, read, count)


def run(module: str, words: Sequence[str], folder: Path, fault: Fault | None = None, ranks: int = 1, limit_s: float = 600.0) -> Child:
    """As `start`, to the end. A process that has not ended after `limit_s` is killed, which its status shows."""
    child = start(module, words, folder, fault, ranks)
    child.wait(limit_s)
    child.close()
    return child


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _prepare(out: int) -> None:
    """In the child: a group of its own, signals as a shell leaves them, words into the pipe; it does not outlive the driver."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(out, 1)
    os.dup2(out, 2)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _become(
    module: str, words: Sequence[str], folder: Path, fault: Fault | None, count: mmap.mmap, out: int, place: tuple[int, int] | None
) -> None:
    """In the child: everything that a fresh interpreter would set, then the command, then the end of the process."""
    status = 1
    try:
        _prepare(out)
        if place:
            rank, port = place
            os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            from pytorch_lightning.utilities import rank_zero_only

            rank_zero_only.rank = rank  # was read from the environment when it was imported
        _count(folder, count, fault or Fault())
        if fault and fault.longest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.longest, fault.longest))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        sys.argv = [module, *words]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except KeyboardInterrupt:
            traceback.print_exc()
            status = 130
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status & 255)


def _count(folder: Path, count: mmap.mmap, fault: Fault) -> None:
    """Count the changes of the folder, and let the fault happen."""
    inside = str(folder)

    def changes(event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = args
            return isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and bool(flags & WRITES)
        return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if not changes(event, args) or not os.path.abspath(os.fsdecode(args[0])).startswith(inside):
            return
        number = int.from_bytes(count[:8], "little") + 1
        count[:8] = number.to_bytes(8, "little")
        if fault.operation is not None and number >= fault.operation:
            if fault.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, fault.kind)
            raise OSError(code, os.strerror(code), os.fsdecode(args[0]))

    sys.addaudithook(heard)


# ------------------------------------------------------------------------------------------------------------ what a folder holds


def _timeless(value: Any) -> Any:
    """JSON without what a clock said."""
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if not key.startswith(("seconds", "date"))}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _values(value: Any) -> str:
    """What a checkpoint holds, with every bit of its tensors. Its bytes also tell which equal strings are one object: left out."""
    import torch

    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_values(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_values, value)) + "]"
    if isinstance(value, torch.Tensor):
        bits = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        return f"{value.dtype} {list(value.shape)} {hashlib.blake2b(bits, digest_size=8).hexdigest()}"
    return repr(value)


def _content(path: Path) -> bytes:
    """What must be equal of a file: its bytes but for seconds of a clock; of a checkpoint its values. Raises ValueError for a torn file."""
    if path.suffix == ".ckpt":
        import torch

        try:
            return _values(torch.load(path, map_location="cpu", weights_only=True)).encode()
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text()))).encode()
    if path.suffix == ".jsonl":
        return "\n".join(json.dumps(_timeless(json.loads(line))) for line in path.read_text().splitlines()).encode()
    if path.suffix == ".html":  # its tables and curves hold seconds
        return path.read_bytes()[-len(b"</html>\n") :]
    if path.suffix == ".md":
        return "\n".join(line for line in path.read_text().splitlines() if "seconds" not in line).encode()
    return path.read_bytes()


def contents(folder: Path, leave_out: Callable[[str], bool]) -> dict[str, str]:
    """A digest of every file below a folder, by its relative path; of one that can't be parsed the reason."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if leave_out(name):
            continue
        try:
            content = _content(path).replace(bytes(folder.resolve()), b"HERE")
            found[name] = hashlib.blake2b(content, digest_size=8).hexdigest()
        except ValueError as error:
            found[name] = f"torn: {error}"
    return found


def differences(reference: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is lost, other, or left over, one line each; empty where all is equal."""
    lines = [f"lost: {name}" for name in reference if name not in found]
    for name, digest in found.items():
        if reference.get(name, digest) != digest:
            lines.append(f"{digest if digest.startswith('torn') else 'other'}: {name}")
    return lines + [f"left over: {name}" for name in found if name not in reference]


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, made the working folder, and removed in the end.

    `TemporaryDirectory` would also remove it where a forked process ends, since it registers that with `atexit`.
    """
    home, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="focus-faults-"))
    os.chdir(place)
    try:
        yield place
    finally:
        os.chdir(home)
        remove(place)


def policy(folder: Path) -> Path:
    """A small random policy, made once in a process of its own."""
    place = folder / "policy"
    if not place.exists():
        pid = os.fork()
        if not pid:
            from tests.support.policies import random_qwen3_vl

            random_qwen3_vl(seed=7).save(place)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the random policy could not be made")
    return place


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
