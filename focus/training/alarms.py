"""Alarms of a training run: the policy gives up its crops, groups teach nothing, conversations are cut off, crops change
their size, tool-free answers get worse, the sampler's weights differ.

They read logged metrics and print; they change no update and end no training.
"""

import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import rich

# Alarm: the logged metrics whose sum it watches; the usual cause, and what helps
ALARMS = {
    "crop_rate": (
        ("crop/rate",),
        "The policy answers from the view alone and gives up its crops. A smaller gap.view_tokens makes them worth it; a higher "
        "reward.terms.tool.weight or rollout.force_first_crop=true keeps them coming.",
    ),
    "zero_variance": (
        ("group/zero_variance",),
        "In most groups all rollouts have the same reward, so they teach nothing. Take harder questions if all are right, easier ones if "
        "all are wrong, raise rollout.rollouts_per_question, or change gap.view_tokens.",
    ),
    "equal_accuracy": (
        ("group/all_right", "group/all_wrong"),
        "In most groups all rollouts are right or all are wrong, so they teach only form and crops. Take harder questions if all are "
        "right, easier ones if all are wrong; objective.teach_groups=accuracy leaves such groups out.",
    ),
    "truncated": (
        ("ending/out_of_tokens", "ending/out_of_turns"),
        "Conversations are cut off before they answer. Raise rollout.tokens_per_turn (out of tokens) or rollout.max_crops (out of turns).",
    ),
    "area_drift": (
        ("crop/area_p50",),
        "Crops grow towards the whole image or shrink to where nothing can be read, as the tool bonus pays for any crop. "
        "reward=stage2 pays for tight ones (it needs annotated boxes); in stage 2 weigh the grounding term higher.",
    ),
    "tool_free": (
        ("gain/tool_free",),
        "The information gain is paid, and the policy unlearns to answer without a crop: its crops seem to tell more than they do. Judge "
        "it by a substitute that the reward never used (make probe, arms noise and conflict), or lower the weight of the term.",
    ),
    "mismatch": (
        ("objective/mismatch_mean",),
        "The sampler's weights differ from those of the policy in training: they are stale, or from another checkpoint or in another "
        "dtype. With rollout=vllm restart the server, or set rollout.vllm.dtype=float32; rollout=kv has no second copy of the weights.",
    ),
}


class CollapseAlarms(pl.Callback):
    """Watches the mean of seven metrics over the last `window` updates. Prints a message when one leaves its limits.

    - `crop_rate`: the smallest share of rollouts with a crop, in [0, 1]; 0 switches the alarm off.
    - `zero_variance`: the largest share of groups whose rewards are equal, in [0, 1]; 1 switches it off.
    - `equal_accuracy`: the largest share of groups that are all right or all wrong, in [0, 1]; 1: off.
    - `truncated`: the largest share of rollouts that ran out of tokens or turns, in [0, 1]; 1: off.
    - `area_drift`: the largest factor, up or down, between the median crop area (share of the image) and
      its mean over the first full window with a crop, above 1; 1e9: off.
    - `tool_free`: how far the probability of the label before any crop may fall below its mean over the first
      full window, in (0, 1]; 1: off. Watched only in runs that log it, those that are paid for information gain.
    - `mismatch`: the largest mean difference between the log-probabilities of sampler and trainer, in
      nats, above 0; 1e9: off.

    NaN is left out of a mean. No alarm is raised before the window is full, or while it holds nothing but
    NaN.

    Every update logs `alarm/<name>`: 1.0 while it is raised, else 0.0. `History` has it in the same row if
    that callback comes later. Only rank zero prints. Raises ValueError for an argument outside its range.
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
        tool_free: float,
        mismatch: float,
    ) -> None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window of CollapseAlarms is {window}; it must be a whole number of updates, at least 1")
        largest = {"zero_variance": zero_variance, "equal_accuracy": equal_accuracy, "truncated": truncated}
        for name, share, never in (("crop_rate", crop_rate, 0), *((name, share, 1) for name, share in largest.items())):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} of CollapseAlarms is {share}; it must be a share in [0, 1]. To switch it off write {never}")
        if not area_drift > 1:
            raise ValueError(f"area_drift of CollapseAlarms is {area_drift}; it must be a factor above 1. To switch it off write 1e9")
        if not 0 < tool_free <= 1:
            raise ValueError(f"tool_free of CollapseAlarms is {tool_free}; it must be a fall in (0, 1]. To switch it off write 1")
        if not mismatch > 0:
            raise ValueError(f"mismatch of CollapseAlarms is {mismatch}; it must be above 0 nats. To switch it off write 1e9")
        self.window, self.area_drift, self.tool_free = window, area_drift, tool_free
        self._limits = {"crop_rate": (crop_rate, 1.0), **{name: (0.0, limit) for name, limit in (largest | {"mismatch": mismatch}).items()}}
        self._windows = {name: deque[float](maxlen=window) for name in ALARMS}
        self._first = {"area_drift": math.nan, "tool_free": math.nan}  # means over the first full window
        self._raised: set[str] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        watched = [name for name in ALARMS if name != "tool_free" or "gain/tool_free" in trainer.logged_metrics]
        for name in watched:
            self._windows[name].append(sum(float(trainer.logged_metrics[metric]) for metric in ALARMS[name][0]))
        means = {name: _mean(values) if len(values) == self.window else math.nan for name, values in self._windows.items()}
        self._first = {name: means[name] if math.isnan(first) else first for name, first in self._first.items()}
        area, tool_free = self._first["area_drift"], self._first["tool_free"]
        limits = {
            **self._limits,
            "area_drift": (area / self.area_drift, area * self.area_drift),
            "tool_free": (tool_free - self.tool_free, 1.0),
        }
        raised = {name for name, (low, high) in limits.items() if _is_outside(means[name], low, high)}
        if trainer.is_global_zero:
            for name in sorted(raised - self._raised):
                (metrics, advice), (low, high) = ALARMS[name], limits[name]
                rich.print(
                    f"alarm/{name} at update {pl_module.updates_done}: the mean of {' + '.join(metrics)} over {self.window} updates is "
                    f"{means[name]:.4g}, outside {low:.4g} to {high:.4g}. {advice}"
                )
        self._raised = raised
        pl_module.log_dict({f"alarm/{name}": float(name in raised) for name in watched})

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed run raises the same alarms as an uninterrupted one."""
        windows = {name: list(values) for name, values in self._windows.items()}
        return {"seen": windows, "first": self._first, "standing": sorted(self._raised)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`. If the window was longer, the latest updates are kept."""
        self._windows |= {name: deque(values, maxlen=self.window) for name, values in state_dict["seen"].items()}
        # A checkpoint of an earlier version knows the first area alone
        self._first |= state_dict.get("first") or {"area_drift": state_dict["first_area"]}
        self._raised = set(state_dict["standing"])


def _mean(values: deque[float]) -> float:
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def _is_outside(mean: float, low: float, high: float) -> bool:
    """Whether a mean is outside its limits. Metrics are float32, so a mean that equals its limit up to rounding is inside; so is NaN."""
    return mean < low * (1 - 1e-6) or mean > high * (1 + 1e-6)
