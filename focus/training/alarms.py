"""Alarms over a training run: crops are given up, groups teach nothing, conversations are cut off, crops change their
size, the sampler draws from other weights.

They watch what is logged and touch no update; the one thing they may do is end the training early.
"""

import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import rich

# alarm: the logged metrics that are added up, what it usually means, what helps
ALARMS = {
    "crop_rate": (
        ("crop/rate",),
        "The policy answers from the view alone and gives up its crops. A smaller gap.view_tokens makes them worth it; a higher "
        "reward.terms.tool.weight or rollout.force_first_crop=true keeps them coming.",
    ),
    "zero_variance": (
        ("group/zero_variance",),
        "Siblings are all paid the same, so most questions teach nothing. Take harder questions if they are all right, easier ones if "
        "they are all wrong, raise rollout.rollouts_per_question, or change gap.view_tokens.",
    ),
    "equal_accuracy": (
        ("group/all_right", "group/all_wrong"),
        "In most groups all rollouts are right or all are wrong, so only form and crops are learned from them. Take harder questions if "
        "they are right, easier ones if they are wrong; objective.teach_groups=accuracy leaves such groups out.",
    ),
    "truncated": (
        ("ending/out_of_tokens", "ending/out_of_turns"),
        "Conversations are cut off before they answer. Raise rollout.tokens_per_turn (out of tokens) or rollout.max_crops (out of "
        "turns); with objective.mask_overturn=true they are not learned from.",
    ),
    "area_drift": (
        ("crop/area_p50",),
        "Crops grow towards the whole image or shrink to where nothing can be read, as the tool bonus pays for any crop. "
        "reward=stage2 pays for tight ones (it needs annotated boxes); in stage 2 weigh the grounding term higher.",
    ),
    "mismatch": (
        ("objective/mismatch_mean",),
        "The sampler does not draw from the policy that learns: its weights are stale, or it was started from another checkpoint or in "
        "another dtype. With rollout=vllm start the server anew, or set rollout.vllm.dtype=float32; rollout=kv has no copy to go stale.",
    ),
}


class CollapseAlarms(pl.Callback):
    """Watch the mean of six figures over the last `window` updates, say once when one leaves its limits, and draw it as a curve.

    Shares are in [0, 1]. `crop_rate` is the smallest share of rollouts with a crop (0: never an alarm), `zero_variance` the largest
    share of groups paid alike, `equal_accuracy` of groups all right or all wrong, and `truncated` of rollouts out of tokens or turns
    (1: never). `area_drift`, above 1 (infinity: never), is the largest factor, up or down, between the median crop area / image and its
    mean over the run's first full window; a first window without any crop leaves that to the next one. `mismatch`, above 0 (infinity:
    never), is the largest mean difference, in nats, between the sampler's log-probabilities and the trainer's. NaN is not measured and
    left out; no alarm stands before the window is full, nor while nothing in it was measured. With `stop`, a standing alarm ends the
    training as if its last update were done.

    Every update logs `alarm/<name>`, 1.0 while it stands and 0.0 otherwise; `History` has them in the same row if it comes later.
    One rank whose alarm stands ends all of them. Only rank zero prints. Raises ValueError for an argument outside its range.
    """

    def __init__(
        self,
        *,
        window: int,
        crop_rate: float,
        zero_variance: float,
        equal_accuracy: float,
        truncated: float,
        area_drift: float,
        mismatch: float,
        stop: bool,
    ) -> None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window of CollapseAlarms is {window}; it must be a whole number of updates, at least 1")
        largest = {"zero_variance": zero_variance, "equal_accuracy": equal_accuracy, "truncated": truncated}
        for name, share, never in (("crop_rate", crop_rate, 0), *((name, share, 1) for name, share in largest.items())):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} of CollapseAlarms is {share}; it must be a share in [0, 1]. To switch it off write {never}")
        if not area_drift > 1:
            raise ValueError(f"area_drift of CollapseAlarms is {area_drift}; it must be a factor above 1. To switch it off write .inf")
        if not mismatch > 0:
            raise ValueError(f"mismatch of CollapseAlarms is {mismatch}; it must be above 0 nats. To switch it off write .inf")
        if not isinstance(stop, bool):
            raise ValueError(f"stop of CollapseAlarms is {stop!r}; it must be true (an alarm ends the training) or false (it only says so)")
        self.window, self.area_drift, self.stop = window, area_drift, stop
        self._limits = {"crop_rate": (crop_rate, 1.0), **{name: (0.0, limit) for name, limit in (largest | {"mismatch": mismatch}).items()}}
        self._seen = {name: deque[float](maxlen=window) for name in ALARMS}
        self._first_area = math.nan
        self._standing: set[str] = set()
        self.ended = False  # whether an alarm ended the training

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run that an alarm ended, and that is started again before it was exported, makes no further update."""
        self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(self._standing), all=False):
            trainer.should_stop = self.ended = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        for name, (metrics, _) in ALARMS.items():
            self._seen[name].append(sum(float(trainer.logged_metrics[metric]) for metric in metrics))
        means = {name: _mean(values) if len(values) == self.window else math.nan for name, values in self._seen.items()}
        if math.isnan(self._first_area):
            self._first_area = means["area_drift"]
        limits = {**self._limits, "area_drift": (self._first_area / self.area_drift, self._first_area * self.area_drift)}
        standing = {name for name, (low, high) in limits.items() if _is_outside(means[name], low, high)}
        if trainer.is_global_zero:
            for name in sorted(standing - self._standing):
                (metrics, advice), (low, high) = ALARMS[name], limits[name]
                rich.print(
                    f"alarm/{name} at update {pl_module.updates_done}: the mean of {' + '.join(metrics)} over {self.window} updates is "
                    f"{means[name]:.4g}, outside {low:.4g} to {high:.4g}. {advice}{' The training ends here.' if self.stop else ''}"
                )
        self._standing = standing
        pl_module.log_dict({f"alarm/{name}": float(name in standing) for name in ALARMS})
        self._end(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to raise what an uninterrupted one does."""
        seen = {name: list(values) for name, values in self._seen.items()}
        return {"seen": seen, "first_area": self._first_area, "standing": sorted(self._standing)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; of a longer window the latest updates are kept."""
        self._seen |= {name: deque(values, maxlen=self.window) for name, values in state_dict["seen"].items()}
        self._first_area, self._standing = state_dict["first_area"], set(state_dict["standing"])


def _mean(values: deque[float]) -> float:
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def _is_outside(mean: float, low: float, high: float) -> bool:
    """Metrics are float32: a mean that equals its limit is not outside; neither is NaN."""
    return mean < low * (1 - 1e-6) or mean > high * (1 + 1e-6)
