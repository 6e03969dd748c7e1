"""The stream of questions that training consumes: opened images, sharded by rank, resumable at any update."""

import signal
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from focus.data.original import Original
from focus.data.sample import Sample
from focus.runtime.distributed import all_gather


@dataclass(frozen=True)
class Question:
    """A sample with its opened original. `draw` counts the questions of the whole run, over all ranks."""

    draw: int
    sample: Sample
    original: Original


@dataclass(frozen=True)
class Broken:
    """A sample whose image could not be read: it costs itself, never the run."""

    draw: int
    sample_id: str
    reason: str


class _Opened(Dataset):
    """Draw n of the run, opened. Every epoch goes through all samples once, in an order of its own."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitem__(self, draw: int) -> Question | Broken:
        epoch, place = divmod(draw, len(self.samples))
        place = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))[place])
        sample = self.samples[place]
        try:
            return Question(draw, sample, sample.open())
        except ValueError as error:
            return Broken(draw, sample.id, str(error))


class _Rounds(Sampler[list[int]]):
    """The draws of this rank, one list for each update from `first` on. Together the ranks see what one process would see.

    Its length is that of the whole run, as Lightning counts updates from the run's beginning.
    """

    def __init__(self, first: int, updates: int, questions_per_update: int, rank: int, ranks: int) -> None:
        self.first, self.updates, self.questions, self.rank, self.ranks = first, updates, questions_per_update, rank, ranks

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[list[int]]:
        for update in range(self.first, self.updates):
            yield list(range(update * self.questions + self.rank, (update + 1) * self.questions, self.ranks))


def _leave_signals(worker: int) -> None:
    """A worker is a copy of its process, handlers included: what a cluster warns that process of is not for the worker to answer."""
    for each in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Loader(DataLoader):
    """Its place is the number of updates made, which the policy keeps, so it has nothing to remember, however many workers it has.

    Lightning asks every loader that can go on for its state, and puts it into the checkpoint.
    """

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Checkpoints of earlier versions hold more; it is not needed."""


class Questions(pl.LightningDataModule):
    """Training questions for `updates` updates, in a new order every epoch. A run that resumes goes on after the updates it has made."""

    def __init__(self, samples: Sequence[Sample], updates: int, questions_per_update: int, workers: int, seed: int) -> None:
        super().__init__()
        self.samples, self.updates, self.questions_per_update = samples, updates, questions_per_update
        self.workers, self.seed = workers, seed

    def train_dataloader(self) -> DataLoader:
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        made: Any = self.trainer.lightning_module.updates_done if self.trainer else 0
        if self.questions_per_update % ranks:
            raise ValueError(
                f"rollout.questions_per_update is {self.questions_per_update}, which {ranks} ranks can't share evenly; "
                "unequal shares would weigh their gradients unequally. Choose a multiple"
            )
        if ranks > 1:
            self._compare()
        return _Loader(
            _Opened(self.samples, self.seed),
            collate_fn=list,
            num_workers=self.workers,
            batch_sampler=_Rounds(made, self.updates, self.questions_per_update, rank, ranks),
            worker_init_fn=_leave_signals,
        )

    def _compare(self) -> None:
        """Raises ValueError on all ranks if they do not read the same questions: 32 of them stand for all."""
        some = [self.samples[i] for i in range(0, len(self.samples), -(-len(self.samples) // 32))]
        mine = f"{len(self.samples)} questions ({zlib.crc32(repr([(s.id, s.question, s.answers) for s in some]).encode()):x})"
        if len(set(each := all_gather(mine))) > 1:
            read = ", ".join(f"rank {rank} reads {said}" for rank, said in enumerate(each))
            raise ValueError(
                f"the ranks disagree on the training questions: {read}. Give every node the same files (data.root, data.records)"
            )
