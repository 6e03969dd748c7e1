"""Seconds of an update and of a whole run: orders of magnitude, since their constants are unproven (hardware.py).

The lower bound has rows of equal length and the larger shares of the peaks. The upper bound has the smaller shares, and waits in
every turn for the longest of rows whose lengths are geometrically distributed. Judges, tools and other users of the machine are in
neither.
"""

import math

from focus.config.views import shown_tokens
from focus.planning import memory, work
from focus.planning.bounds import Bounds, total
from focus.planning.hardware import BANDWIDTH_SHARE, COMPUTE_SHARE, DISK, HASH, KV_STEP, PUBLISH, VLLM_START, VLLM_STEP
from focus.planning.lengths import Lengths
from focus.planning.setup import Setup
from focus.planning.shape import Shape
from focus.training.probe_callback import ProbeCallback

Parts = dict[str, Bounds]
HELD_OUT = 500  # questions that `evaluation.samples: null` is planned as


def _over(amount: float, peak: float, share: Bounds) -> Bounds:
    """Seconds for an amount at a share of the peak."""
    return Bounds(amount / (peak * share.high), amount / (peak * share.low))


def _computing(setup: Setup, flops: float, arithmetic: int) -> Bounds:
    return _over(flops, setup.device.bfloat16 if arithmetic == 2 else setup.device.float32, COMPUTE_SHARE)


def longest_of(rows: float, mean: float, limit: int) -> float:
    """Expected maximum of `rows` geometrically distributed lengths, at most `limit`: the mean times the harmonic number."""
    return min(limit, mean * (math.log(max(1.0, rows)) + (0.577 if rows > 1 else 1.0)))


def decoding(setup: Setup, shape: Shape, each: Lengths, groups: float, siblings: float, turns: float) -> Bounds:
    """Seconds in which `groups` questions, played side by side by `siblings` rows each, are sampled for `turns` turns."""
    rows, device, b = groups * siblings, setup.device, shape.held.arithmetic
    # text weights that a step reads; of the embedding, one row per token
    weights = (setup.counts.total - setup.counts.visual - (0 if shape.tied else setup.counts.embedding)) * b
    prompts = (rows if setup.vllm else groups) * each.prompt  # kv reads a prompt once for all siblings
    cached = (prompts + rows * each.suffix / 2) * shape.cached
    flops = shape.linear(rows) + shape.attention(rows * (each.prompt + each.suffix / 2)) + shape.logits(rows)
    host = VLLM_STEP if setup.vllm else KV_STEP * shape.layers

    def step(active: float) -> Bounds:
        """Seconds of a step while this share of the rows is active."""
        reading = _over(weights + active * cached, device.bandwidth, BANDWIDTH_SHARE)
        computing = _computing(setup, active * flops, b)
        return Bounds(max(reading.low, computing.low, host.low), max(reading.high, computing.high, host.high))

    longest = longest_of(rows, each.turn, setup.cfg.rollout.tokens_per_turn)
    return Bounds(turns * each.turn * step(1.0).low, turns * longest * step(each.turn / longest).high)


def at_once(setup: Setup) -> float:
    """Questions that a rank plays side by side: those of kv's setting, or what vLLM's cache holds of mean groups."""
    if not setup.vllm:
        return memory.together(setup, setup.mean)
    group = (setup.mean.prompt + setup.rollouts * setup.mean.suffix) * setup.shape.cached
    share = memory.vllm(setup)
    return min(setup.questions, max(1.0, share["cache"] // group)) if share else setup.questions


def of_an_update(setup: Setup) -> Parts:
    """Seconds of one update, by part. Of a batch that is sampled while another trains only the longer of the two counts."""
    counts, held, device, mean = setup.counts, setup.held, setup.device, setup.mean
    flops, sent = work.flops(setup), work.sending(setup)
    groups = at_once(setup)
    computing = _computing(setup, flops["update"] + flops["vision tower, update"], held.arithmetic)
    sending = sum(value for name, value in sent.items() if name != "weights, rollout")
    moved = 7 * counts.trainable * setup.learned_bytes / held.share(("fsdp", "zero2")) * setup.cfg.objective.updates_per_rollout
    sampled = {
        "prefill and vision tower": _computing(setup, flops["vision tower, rollout"] + flops["prefill"], held.arithmetic)
        + Bounds.exact(sent["weights, rollout"]),
        "decoding": decoding(setup, setup.shape, mean, groups, setup.rollouts, mean.turns) * math.ceil(setup.questions / groups),
    }
    trained = {
        "update": Bounds(max(computing.low, sending), computing.high + sending),
        "optimiser": _over(moved, device.bandwidth, BANDWIDTH_SHARE),
    }
    if setup.cfg.rollout.overlap and setup.vllm:  # kv samples on the processors that train
        longer = max(sampled, trained, key=lambda parts: total([*parts.values()]).middle)
        sampled, trained = longer, {}
    return sampled | trained | {"weights to vLLM": PUBLISH * counts.total if setup.vllm else Bounds(0.0, 0.0)}


def _measuring(setup: Setup, shape: Shape, samples: int, view: float, arms: int) -> Bounds:
    """Seconds in which all ranks play held-out questions: the arm `own`, then all others side by side."""
    e = setup.cfg.evaluation
    questions = math.ceil(samples / setup.held.ranks)
    groups = min(questions, e.questions_per_forward)
    each = setup.mean.seen_at(view)
    others = max(0, arms - 1)
    appended = each.suffix - each.sampled + each.turns
    pictures = questions * (shape.tower(view) + (1 + others) * (each.turns - 1) * shape.tower(each.crop))
    prefill = shape.linear(questions * (2 * each.prompt + (1 + others) * appended)) + shape.attention(2 * questions * each.prompt**2)
    own = decoding(setup, shape, each, groups, 1, each.turns)
    # a replayed arm samples its last turn again, or all turns where its policy crops again
    replayed = decoding(setup, shape, each, groups, others, 1) if others else Bounds(0.0, 0.0)
    return _computing(setup, pictures + prefill, shape.held.arithmetic) + (own + replayed) * math.ceil(questions / groups)


def of_a_run(setup: Setup, update: Bounds, checkpoint: float) -> Parts:
    """Seconds of a whole run, by part. `update`: of one update; `checkpoint`: bytes that one process writes."""
    cfg, weights = setup.cfg, setup.counts.total
    e, updates = cfg.evaluation, cfg.objective.updates
    samples = HELD_OUT if e.samples is None else e.samples
    policies = 1 + e.base if samples else 0
    found: Parts = {"updates": update * updates}
    if samples and e.probe_every:
        arms = len(memory.played(cfg, ProbeCallback.ARMS))
        probe = _measuring(setup, setup.shape, min(e.probe_samples, samples), shown_tokens(cfg, cfg.gap.view_tokens), arms)
        found["probes inside training"] = probe * (updates // e.probe_every)
    found["checkpoints"] = _transferring(checkpoint) * math.ceil(updates / between_checkpoints(setup, update))
    if samples:
        arms, budgets = len(memory.played(cfg, e.arms)), {cfg.gap.view_tokens, e.common_view_tokens}
        views = [shown_tokens(cfg, budget) for budget in budgets]
        found["evaluation"] = total([_measuring(setup, setup.evaluated, samples, view, arms) for view in views]) * policies
    loads = 1 + policies
    read = _transferring(setup.exported * weights) * (loads + 1)  # and the export is written
    found["loading, hashing, export"] = read + Bounds.exact(loads * weights * HASH)
    if setup.vllm:
        found["start of vLLM"] = VLLM_START
    return found


def between_checkpoints(setup: Setup, update: Bounds) -> int:
    """Updates between two checkpoints: `checkpoint_every`, or as many as pass in `checkpoint_minutes`, at least one."""
    report = setup.cfg.report
    return min(report.checkpoint_every, max(1, math.ceil(60 * report.checkpoint_minutes / update.high)))


def _transferring(bytes_: float) -> Bounds:
    """Seconds in which a process reads or writes that much on disk."""
    return Bounds(bytes_ / DISK.high, bytes_ / DISK.low)
