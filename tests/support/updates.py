"""Updates at their smallest: a policy in training, its questions, its trainer, and comparisons of weights."""

import gc
import multiprocessing
from dataclasses import replace

import pytorch_lightning as pl
import torch

from focus.data.questions import Questions
from focus.data.scenes import DIFFICULTY, Scenes
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.rewards import RewardCallback
from focus.rollout.engine import Engine, Sampling
from focus.rollout.kv import CopiedKVEngine, KVEngine
from focus.rollout.loop import RolloutLimits
from focus.training.logprobs import sampled_logprobs
from focus.training.objective import policy_loss
from focus.training.overlap import OverlappedPolicy
from focus.training.policy import FocusPolicy, UpdateSettings
from tests.support.scripted import call_of, playing

BLUE = "<answer>blue</answer><|im_end|>"


SETTINGS = UpdateSettings(
    rollouts_per_question=4,
    answers_per_crop=1,
    dead_groups="keep",
    questions_per_forward=None,
    sampler_ratio_cap=None,
    tokens_per_forward=600,
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_updates=1,
    grad_clip=1e9,
    clip=0.2,
    dual_clip=3.0,
    advantage_epsilon=1e-6,
    updates_per_rollout=1,
    teach_groups="all",
)


class Parity(RewardCallback):
    """A reward that a random policy earns sometimes: the sum of its sampled ids is even."""

    name = "parity"

    def score(self, trajectories):
        return [float(sum(i for turn in t.turns for i in turn.ids) % 2) for t in trajectories]


class Seldom(RewardCallback):
    """A reward that a random policy earns seldom: the sum of its sampled ids is a multiple of four."""

    name = "accuracy"

    def score(self, trajectories):
        return [float(sum(i for turn in t.turns for i in turn.ids) % 4 == 0) for t in trajectories]


def module_of(policy: PolicyModel, **changes) -> FocusPolicy:
    limits = RolloutLimits(1, 64, Sampling(1.0, 6))
    return FocusPolicy(
        policy,
        KVEngine(policy),
        Gap(Mode.FIXED, 16, policy.token_px),
        limits,
        [Parity(1.0)],
        replace(SETTINGS, **changes),
        seed=3,
    )


def overlapped(policy: PolicyModel, engine: Engine | None = None, **changes) -> OverlappedPolicy:
    m = module_of(policy, **changes)
    return OverlappedPolicy(policy, engine or CopiedKVEngine(policy), m.gap, m.limits, m.rewards, m.settings, m.seed)


def trainer(**more) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "barebones": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            **more,
        }
    )


def questions(updates: int = 1, per_update: int = 4, ahead: bool = False) -> Questions:
    return Questions(Scenes(replace(DIFFICULTY[1], side_px=224), "train", 12), updates, per_update, workers=0, seed=5, ahead=ahead)


def weights(module: FocusPolicy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.model.state_dict().items()}


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    """Point by point and on the mean of the differences: a one-sided drift is a normaliser counted twice."""
    assert a.keys() == b.keys()
    apart = torch.cat([(a[name] - b[name]).flatten() for name in a])
    assert apart.abs().max() < tolerance
    assert apart.mean().abs() < tolerance / 20


class Rows(pl.Callback):
    """What is logged, update by update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items()})


def loss_and_gradients(policy: PolicyModel, logprobs: list[torch.Tensor], advantage: list[float]):
    """The loss of E12 and the gradient of every weight that learns."""
    policy.model.zero_grad()
    flat = torch.cat(logprobs)
    each = torch.cat([torch.full_like(lp, a) for lp, a in zip(logprobs, advantage, strict=True)])
    loss = policy_loss(flat, flat.detach(), each, len(flat))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


class EndsWorker(pl.Callback):
    """Kills the process that reads questions, as the kernel does that runs out of memory."""

    def on_train_batch_end(self, trainer, *_):
        for worker in multiprocessing.active_children():
            worker.kill()


class CountsTensors(pl.Callback):
    """How many tensors the process holds after each update."""

    counts: list[int] = []

    def on_train_batch_end(self, *_):
        gc.collect()
        self.counts.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))


def logprobs(policy: PolicyModel) -> torch.Tensor:
    t = playing(policy, call_of(policy, (0, 0, 40, 40)), BLUE, index=1)
    with torch.no_grad():
        return sampled_logprobs(policy, [t], 1.0)[0]
