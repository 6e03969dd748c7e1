"""The policy as a LightningModule. `training_step` reads like the paper's algorithm box."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from focus.data.images.original import Original
from focus.data.questions import Broken, Question, Questions
from focus.gap import Gap, View
from focus.model.policy_model import PolicyModel
from focus.rewards import Example, RewardCallback, Scores, begin_scoring, examples
from focus.rollout.engine import Engine
from focus.rollout.fork import after_the_first_turn, at_the_call, sampled_tokens
from focus.rollout.loop import WORKERS, RolloutLimits, begin, blank, play, seed_of
from focus.rollout.memory import Room
from focus.rollout.trajectory import Trajectory
from focus.runtime import distributed, memory, strategies
from focus.training.batch import Batch, not_finite_error
from focus.training.logprobs import logprobs_and_entropy, micro_batches, token_advantage
from focus.training.metrics import TokenStatistics, update_metrics
from focus.training.objective import policy_loss, sampler_weight, turn_advantage, zero_variance
from focus.training.trainable_state import SavesTrainableState

# The run ends after this many updates in a row in which no rank could read a question: then the data set
# is gone, and not one image broken. With one question per update and a fifth of all images broken, this
# happens by chance once in ten million updates.
UNREADABLE_UPDATES = 10
PHASES = ("view", "rollout", "reward", "publish", "update")


@dataclass(frozen=True)
class UpdateSettings:
    """The settings of an update."""

    rollouts_per_question: int
    answers_per_crop: int
    dead_groups: str
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
    teach_groups: str


@dataclass
class _Learning:
    """The rollouts that this rank passes through the network in one update, and the state that its optimiser steps share.

    Lists are indexed by rollout, and so are the keys of `old_logprobs` and `sampler_weights`.
    """

    rollouts: Sequence[Trajectory]
    advantages: Sequence[tuple[float, float]]  # of the first turn, and of those after it
    rows: Sequence[int]  # the rollouts that pass: those with an advantage, or one without weight
    update_tokens: int  # sampled tokens of the whole update, over all ranks: the loss's denominator
    blank: bool  # this rank has no rollout of its own, and passes one that counts nowhere
    old_logprobs: dict[int, Tensor] = field(default_factory=dict)
    sampler_weights: dict[int, Tensor] = field(default_factory=dict)
    statistics: TokenStatistics = field(default_factory=TokenStatistics)
    loss: float = 0.0  # summed over micro-batches and steps
    not_finite: list[int] = field(default_factory=list)  # rollouts whose loss is not finite


class FocusPolicy(SavesTrainableState):
    """A multimodal policy that is trained to use what it crops. E1, E3, E4, E12, E13 of docs/method.md."""

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
        self.unreadable_updates = 0  # in a row
        self.last_examples: list[Example] = []
        self.last_advantages: list[float] = []  # of last_examples
        for reward in self.rewards:
            reward.attach(policy, engine, limits)
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._draws: dict[int, int] = {}  # by group, the number of its question in the run
        self._room = Room(policy, limits, settings.rollouts_per_question)

    def training_step(self, questions: Sequence[Question | Broken], index: int) -> None:
        self._seconds, began = dict.fromkeys(PHASES, 0.0), time.perf_counter()
        memory.forget_peak()
        with self.policy.image_cache():
            drawn, drawn_scores = self.roll_out_and_score(questions)  # E1, E3
            trajectories, scores = self.replace_dead_groups(drawn, drawn_scores)
            advantage = self._advantage(scores).flatten(0, 1)  # E4, E14
            with self._timed("update"):
                update = self.update(trajectories, advantage)  # E12, E13
        self.updates_done += 1
        for trajectory in (*drawn, *trajectories):
            trajectory.source.release()  # `last_examples` keeps the trajectories, not the decoded originals
        self.last_examples, self.last_advantages = examples(trajectories, scores), advantage[:, 0].tolist()
        seconds = time.perf_counter() - began
        update |= self._resampling(drawn, trajectories, scores)
        update |= {"tokens/per_second": update["tokens/sampled"] / seconds, "memory/peak_gib": memory.peak_gib()}
        reward = drawn_scores.grouped(self.settings.rollouts_per_question)  # what is logged is what the policy does by itself
        self._log_update(drawn, drawn_scores, reward, update, broken=len(questions) - len(reward))

    def roll_out_and_score(self, questions: Sequence[Question | Broken]) -> tuple[list[Trajectory], Scores]:
        """The rollouts of every readable question, siblings side by side, and their rewards (E1, E3)."""
        # An engine that samples ahead gets its weights in `roll_out`, before they are gathered
        return self._scored(self.roll_out(questions))

    def _scored(self, batches: Iterator[list[Trajectory]]) -> tuple[list[Trajectory], Scores]:
        trajectories: list[Trajectory] = []
        unfinished = []
        reads_weights = self.engine.shares_weights or any(reward.reads_policy for reward in self.rewards)
        with distributed.unsharded(self.model) if reads_weights else nullcontext():
            for played in batches:
                with self._timed("reward"):
                    trajectories += played
                    unfinished.append(begin_scoring(self.rewards, played))  # a judge grades them while the next questions play
                    self.engine.clear_cache()  # it was kept for terms that ask for log-probabilities
        with self._timed("reward"):
            none = Scores({reward.name: [] for reward in self.rewards}, [])
            return trajectories, sum((finish() for finish in unfinished), none)

    def roll_out(self, questions: Sequence[Question | Broken]) -> Iterator[list[Trajectory]]:
        """The rollouts of every readable question, as many questions at a time as fit, siblings side by side.

        Yields nothing where no question can be read.
        """
        return self._played(self.open_trajectories(questions))

    def _played(self, opened: list[Trajectory]) -> Iterator[list[Trajectory]]:
        while opened:
            at_once = self._questions_at_once(opened) * self._first_turns
            with self._timed("rollout"):
                played = self._with_answers(play(self.policy, self.engine, opened[:at_once], self.limits))
            self._room.saw(played)
            opened = opened[at_once:]
            yield played

    @property
    def _first_turns(self) -> int:
        """First turns of a group."""
        return self.settings.rollouts_per_question // self.settings.answers_per_crop

    def _with_answers(self, played: list[Trajectory]) -> list[Trajectory]:
        """Each rollout with those that share its first turn and its crop, `answers_per_crop` in all.

        One that ended with its first turn stands there as often: it has no crop to answer to.
        """
        more = range(1, self.settings.answers_per_crop)
        forks = [after_the_first_turn(t, seed_of(t.seed, "answer", k)) for t in played for k in more]
        if not forks:
            return played
        others = iter(play(self.policy, self.engine, forks, self.limits, keep_prompts=True))
        return [each for t in played for each in (t, *islice(others, len(more)))]

    def replace_dead_groups(self, drawn: list[Trajectory], scores: Scores) -> tuple[list[Trajectory], Scores]:
        """The rollouts that train, and their rewards. A group is dead if no rollout has an advantage though some answer is wrong.

        `refill` asks another question in its place, `fork` samples box and answer again behind the openings of its calls. Both
        do so once. A group without a call is not forked. Groups that are all right stay: nothing is left to find.
        """
        kind, siblings = self.settings.dead_groups, self.settings.rollouts_per_question
        if kind == "keep":
            return drawn, scores
        dead = (self._advantage(scores) == 0).all(2).all(1) & (scores.grouped(siblings, "accuracy") <= 0).any(1)
        groups = {g: drawn[g * siblings : (g + 1) * siblings] for g in dead.nonzero()[:, 0].tolist()}
        opened = {g: self._forked(group) if kind == "fork" else self._refilled(group) for g, group in groups.items()}
        played, new = self._scored(self._played([t for ts in opened.values() for t in ts]))
        rows = [g * siblings + k for g, ts in opened.items() if ts for k in range(siblings)]
        at = dict(zip(rows, played, strict=True))
        return [at.get(row, t) for row, t in enumerate(drawn)], scores.replaced(rows, new)

    def _forked(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        callers = [t for t in group if self.policy.dialect.call[0] in t.turns[0].text]
        kept = [callers[k % len(callers)] for k in range(self._first_turns)] if callers else []
        return [at_the_call(self.policy, t, seed_of(t.seed, "fork", k)) for k, t in enumerate(kept)]

    def _refilled(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        questions: Questions = self.trainer.datamodule  # type: ignore[attr-defined]
        return self._open([questions.spare(self._draws[group[0].group])])[0]

    def open_trajectories(self, questions: Sequence[Question | Broken]) -> list[Trajectory]:
        """Trajectories without turns of every readable question, siblings side by side. All ranks call it together.

        Raises ValueError, on all ranks, after `UNREADABLE_UPDATES` updates in a row in which no rank could
        read a question.
        """
        self._draws.clear()
        opened, reasons = self._open(questions)
        self.unreadable_updates = 0 if distributed.all_reduce_sum(self.trainer.strategy, len(opened)) else self.unreadable_updates + 1
        if self.unreadable_updates >= UNREADABLE_UPDATES:
            raise ValueError(
                f"no question of the last {UNREADABLE_UPDATES} updates could be read; look whether the images are still where the settings "
                f"say. The last reasons: {reasons[:3]}"
            )
        return opened

    def _open(self, questions: Sequence[Question | Broken]) -> tuple[list[Trajectory], list[str]]:
        """Trajectories without turns of every readable question, siblings side by side, and why the others can't be read."""
        with self._timed("view"), ThreadPoolExecutor(WORKERS) as workers:
            views = list(workers.map(self._prepare_view, questions))
        prefill = self.policy.dialect.call[0] if self.limits.force_first_crop else ""
        opened: list[Trajectory] = []
        for question, view in zip(questions, views, strict=True):
            if isinstance(question, Question) and not isinstance(view, str):
                seeds = [seed_of(self.seed, question.draw, k) for k in range(self._first_turns)]
                siblings = begin(self.policy, question.sample, *view, seeds, prefill)
                self._draws[siblings[0].group] = question.draw
                opened += siblings
        return opened, [view for view in views if isinstance(view, str)]

    def _questions_at_once(self, opened: Sequence[Trajectory]) -> int:
        """How many of these questions are played at the same time. An engine with its own weights has its own memory."""
        room = self._room.questions(opened) if self.engine.shares_weights else None
        return self.settings.questions_per_forward or room or len(opened)

    def _prepare_view(self, question: Question | Broken) -> tuple[View, Original] | str:
        """The view of a question and the source of its crops, or why there is none. Runs in worker threads."""
        if isinstance(question, Broken):
            return question.reason
        try:
            view, source = self.gap.view_of(question.sample, question.original)
        except ValueError as error:
            return f"sample {question.sample.id}: {error}"
        return view, source

    def _advantage(self, scores: Scores) -> Float[Tensor, "question rollout part"]:
        s = self.settings
        accuracy = scores.grouped(s.rollouts_per_question, "accuracy") if s.teach_groups == "accuracy" else None
        return turn_advantage(scores.grouped(s.rollouts_per_question), s.answers_per_crop, s.advantage_epsilon, accuracy)

    def _resampling(self, drawn: Sequence[Trajectory], trained: Sequence[Trajectory], scores: Scores) -> dict[str, float]:
        """What was really sampled where turns are shared or groups replaced, and how many groups were and still are dead."""
        if self.settings.answers_per_crop == 1 and self.settings.dead_groups == "keep":
            return {}
        played = {id(t): t for t in (*drawn, *trained)}.values()
        replaced = [a is not b for a, b in zip(drawn, trained, strict=True)]
        strategy, groups = self.trainer.strategy, max(1, len(drawn))
        return {
            "tokens/sampled": float(distributed.all_reduce_sum(strategy, sampled_tokens(played))),
            "tokens/visual": float(distributed.all_reduce_sum(strategy, sum(t.visual_tokens for t in played))),
            "group/replaced": sum(replaced) / groups,
            "group/dead": float(zero_variance(scores.grouped(self.settings.rollouts_per_question)).float().mean()),
        }

    def update(self, trajectories: Sequence[Trajectory], advantage: Float[Tensor, "trajectory part"]) -> dict[str, float]:
        """One or more optimiser steps on these rollouts; returns the metrics to log.

        `advantage` has two numbers for each: of its first turn, and of the turns after it.

        A rollout with zero advantage has zero gradient. It does not pass through the network, but its
        tokens stay in the denominator. Where no rollout of any rank has an advantage, weights and moments
        stay as they are. Every rank runs the same number of synchronised backwards: a rank without a
        rollout that teaches passes its first one, or a blank one, without weight.
        """
        strategy, optimizer = self.trainer.strategy, self.optimizers()
        assert not isinstance(optimizer, list)  # there is one
        self.rest_engine()
        sampled_tokens = distributed.all_reduce_sum(strategy, sum(sum(t.sampled_mask) for t in trajectories))
        with_advantage = [i for i in range(len(trajectories)) if (advantage[i] != 0).any()]
        teaches = distributed.all_reduce_sum(strategy, len(with_advantage)) > 0
        learning = _Learning(
            rollouts=trajectories or [blank(self.policy)],
            advantages=[(first, later) for first, later in advantage.tolist()] or [(0.0, 0.0)],
            rows=with_advantage or [0],
            update_tokens=max(1, sampled_tokens),
            blank=not trajectories,
        )
        self.policy.release_features(image for i in learning.rows for image in learning.rollouts[i].images)
        grad_norm = 0.0
        for _ in range(self.settings.updates_per_rollout):
            self._accumulate_gradients(learning)
            grad_norm = strategies.clip_gradients(strategy, self._trainable(), self.settings.grad_clip)
            self._check_finite(learning, grad_norm)
            self._warm_up(optimizer)
            if not teaches:
                strategies.skip_step(strategy, optimizer)
            optimizer.step()  # called even if it is skipped: Lightning counts it, and names checkpoints by the count
            optimizer.zero_grad()
        self.renew_engine()
        return {
            "objective/loss": learning.loss * self.trainer.world_size,  # metrics are averaged over ranks; this one is a sum
            "objective/grad_norm": grad_norm,
            **learning.statistics.metrics(self.settings.sampler_ratio_cap),
            "tokens/sampled": float(sampled_tokens),
            "tokens/visual": float(distributed.all_reduce_sum(strategy, sum(t.visual_tokens for t in trajectories))),
            "tokens/trained": float(learning.update_tokens),
        }

    def rest_engine(self) -> None:
        """Called before an update, which needs the memory of the sampler."""
        self.engine.sleep()

    def renew_engine(self) -> None:
        """Called after an update, whose weights sample from now on."""
        with self._timed("publish"):
            self.engine.sync_weights()

    def settle_engine(self) -> None:
        """Called between two updates, before a measurement: the engine must be idle and have the weights of now. It is, and it has."""

    def _accumulate_gradients(self, learning: _Learning) -> None:
        """The gradients of E12 on all rollouts that teach, one backward per micro-batch."""
        strategy = self.trainer.strategy
        micro = micro_batches([learning.rollouts[i] for i in learning.rows], self.settings.tokens_per_forward)
        rounds = strategies.backward_count(strategy, len(micro))
        for number in range(rounds):
            # A rank without micro-batches left repeats its last one with weight 0: all ranks run as many backwards
            rows = [learning.rows[m] for m in micro[min(number, len(micro) - 1)]]
            weight = float(number < len(micro))
            with nullcontext() if number + 1 == rounds else strategies.no_gradient_sync(strategy):
                loss = self._loss(learning, rows, counted=bool(weight))
                self.manual_backward(loss * weight * self.trainer.world_size)  # ranks are averaged; the denominator is global
            learning.loss += float(loss.detach()) * weight
            learning.not_finite += [] if math.isfinite(loss.detach()) else rows

    def _loss(self, learning: _Learning, rows: Sequence[int], counted: bool) -> Float[Tensor, ""]:
        """E12 on these rollouts. `counted`: their tokens enter the statistics of this step."""
        s = self.settings
        logprobs, entropies = logprobs_and_entropy(self.policy, [learning.rollouts[i] for i in rows], self.limits.sampling.temperature)
        if not all(i in learning.old_logprobs for i in rows):  # the first step is strictly on-policy: old = new
            learning.old_logprobs |= {i: logprob.detach() for i, logprob in zip(rows, logprobs, strict=True)}
            old = {i: learning.old_logprobs[i] for i in rows}
            sampler = {i: torch.tensor(learning.rollouts[i].sampler_logprobs, device=self.device) for i in rows}
            learning.sampler_weights |= {i: sampler_weight(old[i], sampler[i], s.sampler_ratio_cap) for i in rows}  # E13
            if not learning.blank:
                learning.statistics.add_sampled(torch.cat([old[i] - sampler[i] for i in rows]), torch.cat(entropies))
        logprob, old_logprob = torch.cat(logprobs), torch.cat([learning.old_logprobs[i] for i in rows])
        advantage = torch.cat([token_advantage(learning.rollouts[i], learning.advantages[i], learning.sampler_weights[i]) for i in rows])
        if counted and not learning.blank:
            learning.statistics.add_step(logprob.detach(), old_logprob, advantage, s.clip, s.dual_clip)
        return policy_loss(logprob, old_logprob, advantage, learning.update_tokens, s.clip, s.dual_clip)

    def _check_finite(self, learning: _Learning, grad_norm: float) -> None:
        """Raises ValueError, after saving the rollouts at fault, where the loss or the gradient is not finite."""
        if not learning.not_finite and math.isfinite(grad_norm):
            return
        rows = learning.not_finite or learning.rows
        batch = Batch(
            update=self.updates_done + 1,
            tokens=learning.update_tokens,
            advantages=[learning.advantages[i] for i in rows],
            rollouts=[learning.rollouts[i] for i in rows],
        )
        folder = Path(self.trainer.default_root_dir) / f"not_finite_{self.global_rank}"
        raise not_finite_error(batch, "loss" if learning.not_finite else "gradient", grad_norm, folder)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, strategies.FullyShardedStrategy):
            self.trainer.strategy.shard(self.policy.unwrapped)

    def on_train_start(self) -> None:
        """Sends the weights to the sampler: those of a resumed run are in place by now."""
        self.engine.sync_weights()

    def on_fit_end(self) -> None:
        """Leaves the sampler's memory to the policies that are measured next."""
        self.engine.sleep()

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        """Questions hold images, not tensors; pixels move to the device when they are packed."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights = self._trainable()
        fused = weights[0].is_cuda or None  # one kernel for all weights, without temporaries; on the CPU PyTorch's own choice
        return torch.optim.AdamW(weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=fused)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["focus"] = {"updates_done": self.updates_done, "gap": self._gap_identity()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        saved = checkpoint["focus"]
        if saved["gap"] != self._gap_identity():
            raise ValueError(
                f"this run was started with another gap ({saved['gap']}, now {self._gap_identity()}); resume with the same "
                "settings, or start anew in another output folder"
            )
        self.updates_done = saved["updates_done"]

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
        """Log one update: metrics of its rollouts and rewards, tokens, seconds, and the metrics of the optimiser's steps."""
        values = update_metrics(trajectories, scores, reward) | {
            "data/broken": float(broken),
            **{f"seconds/{phase}": float(seconds) for phase, seconds in self._seconds.items()},
            **{name: value for term in self.rewards for name, value in term.metrics().items()},
            **update,
            "update": float(self.updates_done),
        }
        values = distributed.mean_over_ranks(values)
        self.log_dict(values)
