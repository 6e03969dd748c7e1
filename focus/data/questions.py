"""The stream of questions that training consumes: opened images, sharded by rank, resumable at any
update.
"""

import signal
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from focus.data.images.original import Original
from focus.data.sample import Sample
from focus.runtime.distributed import all_gather

FIRST_SPARE = 2**40  # the number of the first spare draw


@dataclass(frozen=True)
class Question:
    """A sample with its opened original.

    `draw` counts the questions of the whole run, over all ranks.
    """

    draw: int
    sample: Sample
    original: Original


@dataclass(frozen=True)
class Broken:
    """A sample whose image could not be read. It is skipped; the run continues."""

    draw: int
    sample_id: str
    reason: str


class _Opened(Dataset):
    """Item n is draw n of the run, opened. Every epoch has all samples once, in a new order."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitem__(self, draw: int) -> Question | Broken:
        epoch, position = divmod(draw, len(self.samples))
        index = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))[position])
        sample = self.samples[index]
        try:
            return Question(draw, sample, sample.open())
        except ValueError as error:
            return Broken(draw, sample.id, str(error))


class _RankDraws(Sampler[list[int]]):
    """The draws of this rank, one list per update from `first` on.

    All ranks together have the draws of one process.

    Its length is that of the whole run, because Lightning counts updates from the start of the run.
    """

    def __init__(self, first: int, updates: int, questions_per_update: int, rank: int, ranks: int) -> None:
        self.first, self.updates, self.questions, self.rank, self.ranks = first, updates, questions_per_update, rank, ranks

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[list[int]]:
        for update in range(self.first, self.updates):
            yield list(range(update * self.questions + self.rank, (update + 1) * self.questions, self.ranks))


def _leave_signals(worker: int) -> None:
    """Resets a worker's signal handlers, which it inherits: only the main process reacts to a
    cluster's warnings.
    """
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(warning, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Loader(DataLoader):
    """A loader without state of its own: its position is the number of updates done, which the
    policy stores.

    Lightning saves the state of every resumable loader in the checkpoint.
    """

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Ignores the state, which earlier versions saved."""


class _PairLoader(_Loader):
    """Yields the questions of an update together with those of the next one; the last ones with none."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from pairwise(chain(super().__iter__(), [[]]))


class Questions(pl.LightningDataModule):
    """Training questions for `updates` updates, in a new order every epoch.

    A resumed run continues after its last update. With `ahead` an update gets a pair: its own questions
    and those of the next update.
    """

    def __init__(
        self, samples: Sequence[Sample], updates: int, questions_per_update: int, workers: int, seed: int, ahead: bool = False
    ) -> None:
        super().__init__()
        self.ahead = ahead
        self.samples, self.updates, self.questions_per_update = samples, updates, questions_per_update
        self.workers, self.seed = workers, seed

    def train_dataloader(self) -> DataLoader:
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        done: Any = self.trainer.lightning_module.updates_done if self.trainer else 0
        if self.questions_per_update % ranks:
            raise ValueError(
                f"rollout.questions_per_update is {self.questions_per_update}, which {ranks} ranks can't share evenly; "
                f"unequal shares would weight their gradients unequally. Choose a multiple of {ranks}"
            )
        if ranks > 1:
            self._check_same_questions()
        return (_PairLoader if self.ahead else _Loader)(
            _Opened(self.samples, self.seed),
            collate_fn=list,
            num_workers=self.workers,
            batch_sampler=_RankDraws(done, self.updates, self.questions_per_update, rank, ranks),
            worker_init_fn=_leave_signals,
        )

    def spare(self, draw: int) -> Question | Broken:
        """A question to ask in the place of draw `draw`, opened now. No draw of a run comes to it."""
        return _Opened(self.samples, self.seed)[FIRST_SPARE + draw]

    def _check_same_questions(self) -> None:
        """Raises ValueError on all ranks if they read different questions; 32 of them are compared."""
        some = [self.samples[i] for i in range(0, len(self.samples), -(-len(self.samples) // 32))]
        summary = f"{len(self.samples)} questions ({zlib.crc32(repr([(s.id, s.question, s.answers) for s in some]).encode()):x})"
        if len(set(summaries := all_gather(summary))) > 1:
            read = ", ".join(f"rank {rank} reads {text}" for rank, text in enumerate(summaries))
            raise ValueError(
                f"the ranks disagree on the training questions: {read}. Give every node the same files (data.root, data.records)"
            )
