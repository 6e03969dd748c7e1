"""Rollouts that share what another one sampled: up to its call, or up to its crop.

A fork has another seed and the same group, so its prompt is shared as that of any sibling. Kept ids are never encoded again.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from focus.rollout.engine import Model
from focus.rollout.trajectory import Status, Trajectory


def at_the_call(policy: Model, t: Trajectory, seed: int) -> Trajectory:
    """The rollout up to the opening of the call in its first turn: box and answer are sampled again.

    What is kept stands where a prefill stands: it was not sampled by the fork and carries no loss there.
    """
    ids, opening = t.turns[0].ids, policy.dialect.call[0]

    def begun(tokens: int) -> str:
        return t.prefill + policy.tokenizer.decode(ids[:tokens])

    kept = bisect_left(range(len(ids)), True, key=lambda tokens: opening in begun(tokens))
    opened = replace(t, turns=(), status=Status.OPEN, seed=seed)
    return replace(opened, prefill=begun(kept), prefill_ids=(*t.prefill_ids, *ids[:kept]))


def after_the_first_turn(t: Trajectory, seed: int) -> Trajectory:
    """The rollout up to its second sampled turn, with the same crop: what follows is sampled again.

    A rollout that ended with its first turn stays as it is.
    """
    # A turn that lists several boxes is stored as several turns, and only the first of them has ids
    later = next((i for i, turn in enumerate(t.turns) if i and turn.ids), None)
    return t if later is None else replace(t, turns=t.turns[:later], status=Status.OPEN, seed=seed)


def sampled_tokens(trajectories: Iterable[Trajectory]) -> int:
    """Tokens that were sampled for these rollouts. A turn that forks share counts once."""
    return sum({id(turn): len(turn.ids) for t in trajectories for turn in t.turns}.values())
