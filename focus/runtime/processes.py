"""How a process ends: on ctrl-C, on SIGTERM, with the process that started it, and after faults that come from outside."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NoReturn

ENDS_WITHIN_S = 20.0  # of SIGTERM; Slurm and torchrun kill after 30
AGAIN = "run the same command again, and it goes on where it stopped"
PARENT = "FOCUS_PARENT"  # environment variable with the process that started this rank
NO_ACCESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


RESUMES = "run the same command again to resume"


class Terminated(KeyboardInterrupt):
    """SIGTERM: the parent process or a cluster asks this process to end. Code that cleans up after ctrl-C runs for it too."""


_handler_ran = threading.Event()


def _terminate(*_: object) -> None:
    _handler_ran.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nor PyTorch's message that its workers have ended as well
    raise Terminated


def end_on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread, once. Jobs of submitit keep its handlers, which requeue them.

    A rank that waits for another one inside PyTorch can't raise anything: such a process is ended ENDS_WITHIN_S later.
    """
    if "SUBMITIT_EXECUTOR" in os.environ or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _terminate)
    _watch_sigterm()


@cache
def _watch_sigterm() -> None:
    """One thread reads signals when they arrive: Python itself calls a handler only between two of its own steps."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # signals of a data worker are not for this process

    def watch() -> None:
        while True:
            if signal.SIGTERM in os.read(read, 64):
                if not _handler_ran.wait(ENDS_WITHIN_S) and signal.getsignal(signal.SIGTERM) is _terminate:
                    os._exit(128 + signal.SIGTERM)
                _handler_ran.clear()

    threading.Thread(target=watch, name="end on SIGTERM", daemon=True).start()


@contextmanager
def started_by_this_process() -> Iterator[None]:
    """Within the block, processes inherit the number of this one, so that `end_with_parent` knows their parent even if it is gone."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


def end_with_parent() -> None:
    """A point of a local sweep, or a rank that Lightning started, gets SIGTERM when the process that started it is gone.

    A rank that waits inside PyTorch, where it can't raise anything, ends ENDS_WITHIN_S later.
    """
    if not multiprocessing.current_process().name.startswith("Loky") and os.environ.get("LOCAL_RANK", "0") == "0":
        return
    parent = int(os.environ.pop(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDS_WITHIN_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def exit_interrupted(error: KeyboardInterrupt) -> NoReturn:
    """End with exit status 143 after SIGTERM, which is what a process without a handler has, and with 1 after ctrl-C.

    Work that can go on notes `RESUMES` on its way out; a server or a question can't.
    """
    terminated = isinstance(error, Terminated)
    reason = "ended by SIGTERM" if terminated else "interrupted"
    print("focus: " + "; ".join([reason, *getattr(error, "__notes__", ())]), file=sys.stderr)
    sys.exit(128 + signal.SIGTERM if terminated else 1)


def outside_cause(error: BaseException) -> str:
    """One sentence for a failure that is no fault of the program: a full disk, or a process of the run that was ended; else empty."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    for each in chain:
        text = (str(each).splitlines() or [""])[0]
        if (isinstance(each, OSError) and each.errno in NO_ACCESS) or "os error 28" in text:  # 28: safetensors' words
            return f"a file can't be read or written ({text}). When that is mended, {AGAIN}"
        if isinstance(each, RuntimeError) and text.startswith("DataLoader worker"):
            return (
                f"a process that reads questions was ended from outside ({text}), often for lack of memory: data.workers=0 "
                f"needs none beside this one. {AGAIN[0].upper()}{AGAIN[1:]}"
            )
        if _of_another_rank(each) or (isinstance(each, RuntimeError) and "Connection closed by peer" in text):
            return f"another rank of this run has ended, and says why itself. {AGAIN[0].upper()}{AGAIN[1:]}. ({text})"
    return ""


def _of_another_rank(error: BaseException) -> bool:
    """Whether PyTorch's process group failed. Only a program that has loaded PyTorch can meet such an error."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and isinstance(error, distributed.DistError)
