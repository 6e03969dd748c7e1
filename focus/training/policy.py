"""The policy as a LightningModule. `training_step` reads like the paper's algorithm box."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from focus.data.images.original import Original
from focus.data.questions import Broken, Question
from focus.gap import Gap, View
from focus.model.policy_model import PolicyModel
from focus.rewards import Example, RewardCallback, Scores, begin_scoring, examples
from focus.rollout.engine import Engine
from focus.rollout.loop import WORKERS, RolloutLimits, begin, blank, play, seed_of
from focus.rollout.trajectory import TRUNCATED, Trajectory
from focus.runtime import distributed, strategies
from focus.training.batch import Batch, not_finite_error
from focus.training.logprobs import logprobs_and_entropy, micro_batches
from focus.training.metrics import TokenStatistics, update_metrics
from focus.training.objective import group_advantage, policy_loss, sampler_weight
from focus.training.trainable_state import SavesTrainableState

# So many updates in a row without one readable question, over all ranks, end a run: then it is the data that is gone, not an image that
# is broken. With one question an update and a fifth of all images broken that happens once in ten million updates.
UNREADABLE_UPDATES = 10
PHASES = ("view", "rollout", "reward", "publish", "update")


@dataclass(frozen=True)
class UpdateSettings:
    """How an update is made."""

    rollouts_per_question: int
    questions_per_forward: int | None
    sampler_ratio_cap: float | None
    tokens_per_forward: int
    learning_rate: float
    weight_decay: float
    warmup_updates: int
    grad_clip: float
    clip: float
    dual_clip: float
    advantage_epsilon: float
    updates_per_rollout: int
    mask_overturn: bool
    teach_groups: str


class FocusPolicy(SavesTrainableState):
    """A multimodal policy that learns to look at what it zooms into. E1, E3, E4, E12, E13 of the README's ledger."""

    def __init__(
        self,
        policy: PolicyModel,
        engine: Engine,
        gap: Gap,
        limits: RolloutLimits,
        rewards: Sequence[RewardCallback],
        settings: UpdateSettings,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # rollout, reward and update alternate within one step
        self.policy, self.engine, self.gap, self.limits, self.rewards = policy, engine, gap, limits, list(rewards)
        self.settings, self.seed = settings, seed
        self.model = policy.model
        self.updates_done = 0
        self.unreadable_updates = 0  # in a row, until now
        self.last_examples: list[Example] = []
        for reward in self.rewards:
            reward.attach(policy, engine, limits)
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def training_step(self, questions: list[Question | Broken], index: int) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        trajectories: list[Trajectory] = []
        scoring = []
        with self.policy.image_cache():
            with distributed.unsharded(self.model):
                for played in self.roll_out(questions):  # E1
                    with self._timed("reward"):
                        trajectories += played
                        scoring.append(begin_scoring(self.rewards, played))  # E3; a judge is asked while others still play
                        self.engine.clear_cache()  # its caches were kept for terms that weigh answers
            with self._timed("reward"):
                scores = sum((finish() for finish in scoring), Scores({reward.name: [] for reward in self.rewards}, []))
            siblings = self.settings.rollouts_per_question
            reward = scores.grouped(siblings)
            accuracy = scores.grouped(siblings, "accuracy") if self.settings.teach_groups == "accuracy" else None
            advantage = group_advantage(reward, self.settings.advantage_epsilon, accuracy).flatten()  # E4
            with self._timed("update"):
                update = self.update(trajectories, advantage)  # E12
        self.updates_done += 1
        for trajectory in trajectories:
            trajectory.source.release()  # the examples that are kept for display hold on to it
        self.last_examples = examples(trajectories, scores)
        self._log_update(trajectories, scores, reward, update, broken=len(questions) - len(trajectories) // siblings)

    def roll_out(self, questions: Sequence[Question | Broken]) -> Iterator[list[Trajectory]]:
        """The rollouts of every readable question, `questions_per_forward` questions at a time, siblings side by side.

        None where no question could be read. Raises ValueError, on all ranks, where no rank could read any for `UNREADABLE_UPDATES`
        updates in a row.
        """
        with self._timed("view"), ThreadPoolExecutor(WORKERS) as workers:
            seen = list(workers.map(self._prepare_view, questions))
        opening = self.policy.dialect.call[0] if self.limits.force_first_crop else ""
        opened: list[Trajectory] = []
        for question, view in zip(questions, seen, strict=True):
            if isinstance(question, Question) and not isinstance(view, str):
                seeds = [seed_of(self.seed, question.draw, k) for k in range(self.settings.rollouts_per_question)]
                opened += begin(self.policy, question.sample, *view, seeds, opening)
        self.unreadable_updates = 0 if distributed.all_reduce_sum(self.trainer.strategy, len(opened)) else self.unreadable_updates + 1
        if self.unreadable_updates >= UNREADABLE_UPDATES:
            reasons = [reason for reason in seen if isinstance(reason, str)]
            raise ValueError(
                f"no question of the last {UNREADABLE_UPDATES} updates could be read; look whether the images are still where the settings "
                f"say. The last reasons: {reasons[:3]}"
            )
        at_once = (self.settings.questions_per_forward or len(questions)) * self.settings.rollouts_per_question
        for start in range(0, len(opened), at_once):
            with self._timed("rollout"):
                played = play(self.policy, self.engine, opened[start : start + at_once], self.limits)
            yield played

    def _prepare_view(self, question: Question | Broken) -> tuple[View, Original] | str:
        """The view of a question and the source of its crops, or why there is none. Worker threads ask it."""
        if isinstance(question, Broken):
            return question.reason
        try:
            view, source = self.gap.view_of(question.sample, question.original)
        except ValueError as error:
            return f"sample {question.sample.id}: {error}"
        self.policy.prepare(view.image)
        return view, source

    def update(self, trajectories: Sequence[Trajectory], advantage: Float[Tensor, " trajectory"]) -> dict[str, float]:
        """One or more optimiser steps on these rollouts; returns what there is to log.

        A rollout with zero advantage has zero gradient and is not passed forward, but its tokens stay in the denominator; with
        `mask_overturn` a truncated one leaves both. Where no rollout of any rank has an advantage, weights and moments stay as they are.
        Every rank makes the same number of synchronised backwards, whatever its number of micro-batches: one without anything to learn
        passes its first rollout, or a blank one, without weight.
        """
        s, optimizer = self.settings, self.optimizers()
        assert not isinstance(optimizer, list)  # there is one
        masked = torch.tensor([s.mask_overturn and t.status in TRUNCATED for t in trajectories], dtype=torch.bool)
        advantage = advantage.masked_fill(masked, 0.0)
        sampled = torch.tensor([sum(t.sampled_mask) for t in trajectories], dtype=torch.long)
        strategy = self.trainer.strategy
        tokens = max(1, distributed.all_reduce_sum(strategy, int(sampled[~masked].sum())))
        teaching = [i for i in range(len(trajectories)) if advantage[i] != 0]
        moves = distributed.all_reduce_sum(strategy, len(teaching)) > 0
        passed, teaching = trajectories or [blank(self.policy)], teaching or [0]
        advantages = advantage.tolist() or [0.0]
        old: dict[int, Tensor] = {}
        weight: dict[int, Tensor] = {}
        watched, loss_sum, grad_norm, suspects = TokenStatistics(), 0.0, 0.0, list[int]()
        for _ in range(s.updates_per_rollout):
            micro = micro_batches([passed[i] for i in teaching], s.tokens_per_forward)
            rounds = strategies.backward_count(strategy, len(micro))
            for number in range(rounds):
                rows = [teaching[m] for m in micro[min(number, len(micro) - 1)]]
                counts = float(number < len(micro))  # a rank that is done passes its last rows again, without weight
                with nullcontext() if number + 1 == rounds else strategies.no_gradient_sync(strategy):
                    logprobs, entropies = logprobs_and_entropy(self.policy, [passed[i] for i in rows], self.limits.sampling.temperature)
                    if not all(i in old for i in rows):  # the first update is strictly on-policy: old = new
                        old |= {i: lp.detach() for i, lp in zip(rows, logprobs, strict=True)}
                        sampler = {i: torch.tensor(passed[i].sampler_logprobs, device=self.device) for i in rows}
                        weight |= {i: sampler_weight(old[i], sampler[i], s.sampler_ratio_cap) for i in rows}  # E13
                        if trajectories:  # and not the blank rollout
                            watched.add_sampled(torch.cat([old[i] - sampler[i] for i in rows]), torch.cat(entropies))
                    new, before = torch.cat(logprobs), torch.cat([old[i] for i in rows])
                    each = torch.cat([advantages[i] * weight[i] for i in rows])
                    loss = policy_loss(new, before, each, tokens, s.clip, s.dual_clip)
                    self.manual_backward(loss * counts * self.trainer.world_size)  # ranks are averaged; the denominator is global
                    loss_sum += float(loss.detach()) * counts
                    suspects += [] if math.isfinite(loss.detach()) else rows
                    if trajectories and counts:
                        watched.add_step(new.detach(), before, each, s.clip, s.dual_clip)
            grad_norm = strategies.clip_gradients(strategy, self._trainable(), s.grad_clip)
            if suspects or not math.isfinite(grad_norm):
                at_fault = suspects or teaching
                kept = Batch(self.updates_done + 1, tokens, [advantages[i] for i in at_fault], [passed[i] for i in at_fault])
                folder = Path(self.trainer.default_root_dir) / f"not_finite_{self.global_rank}"
                raise not_finite_error(kept, "loss" if suspects else "gradient", grad_norm, folder)
            self._warm_up(optimizer)
            if not moves:
                strategies.skip_step(strategy, optimizer)
            optimizer.step()  # also where nothing moves: Lightning counts it, and checkpoints follow its count
            optimizer.zero_grad()
        with self._timed("publish"):
            self.engine.sync_weights()
        return {
            "objective/loss": loss_sum * self.trainer.world_size,  # figures are averaged over ranks; this one is a sum
            "objective/grad_norm": grad_norm,
            **watched.metrics(s.sampler_ratio_cap),
            "tokens/sampled": float(distributed.all_reduce_sum(strategy, int(sampled.sum()))),
            "tokens/visual": float(distributed.all_reduce_sum(strategy, sum(t.visual_tokens for t in trajectories))),
            "tokens/trained": float(tokens),
        }

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, strategies.FullyShardedStrategy):
            self.trainer.strategy.shard(self.policy.unwrapped)

    def on_train_start(self) -> None:
        """By now the weights of a run that resumes are in place."""
        self.engine.sync_weights()

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        """Questions hold images, not tensors; pixels move when they are packed."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self._trainable(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["focus"] = {"updates_done": self.updates_done, "gap": self._gap_identity()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        kept = checkpoint["focus"]
        if kept["gap"] != self._gap_identity():
            raise ValueError(
                f"this run was started with another gap ({kept['gap']}, now {self._gap_identity()}); resume with the same "
                "settings, or start anew in another output folder"
            )
        self.updates_done = kept["updates_done"]

    def _gap_identity(self) -> str:
        return f"{self.gap.mode} {self.gap.view_tokens} {seed_of(sorted(self.gap.selected.items())):x}"

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _warm_up(self, optimizer) -> None:
        share = min(1.0, (self.updates_done + 1) / max(1, self.settings.warmup_updates))
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[phase] += time.perf_counter() - start

    def _log_update(
        self, trajectories: Sequence[Trajectory], scores: Scores, reward: Tensor, update: dict[str, float], broken: int
    ) -> None:
        """Log one update: what was played and paid beside tokens, seconds and what the optimiser did."""
        values = update_metrics(trajectories, scores, reward) | {
            "data/broken": float(broken),
            **{f"seconds/{phase}": float(seconds) for phase, seconds in self._seconds.items()},
            **{name: value for term in self.rewards for name, value in term.metrics().items()},
            **update,
            "update": float(self.updates_done),
        }
        values = distributed.mean_over_ranks(values)
        self.log_dict(values)
