"""What the information gain (E9) costs per number of placebos J, beside the rollout that it grades. `make speed TABLE=information_gain`.

Writes information_gain.json: one default step (8 questions x 8 rollouts of the embedded policy, first crops forced). Tokens that pass
the text layers are counted, with the rollout's caches and after the engine forgot them (what a frozen reader pays); seconds are a ratio to
the rollout in the same turn.
"""

from collections.abc import Callable, Sequence

import torch

from experiments.speed.step import roll, setting
from experiments.speed.timing import REPEATS, seconds, spread, write
from focus.rewards import InformationGain
from focus.rollout.trajectory import Trajectory
from focus.training.policy import FocusPolicy

PLACEBOS = (0, 1, 2, 4)


def tokens_of(policy: FocusPolicy, work: Callable[[], object]) -> int:
    """Tokens that `work` passes through the text layers."""
    counted: list[int] = []
    hidden = policy.policy.hidden
    policy.policy.hidden = lambda ids, *rest: counted.append(len(ids)) or hidden(ids, *rest)  # type: ignore[method-assign,func-returns-value]
    try:
        work()
    finally:
        del policy.policy.hidden  # type: ignore[method-assign]
    return sum(counted)


def row(policy: FocusPolicy, questions: Sequence, placebos: int) -> dict[str, object]:
    """One number of placebos: tokens of rollout and gain, and seconds of the gain over seconds of the rollout."""
    term = InformationGain(1.0, placebos=placebos, reader="policy")
    term.attach(policy.policy, policy.engine, policy.limits)
    played: list[Trajectory] = []
    with policy.policy.image_cache():
        rollout = tokens_of(policy, lambda: played.extend(roll(policy, questions, 0)))
        cached = tokens_of(policy, lambda: term.score(played))
        policy.engine.clear_cache()
        bare = tokens_of(policy, lambda: term.score(played))
    shares = []
    for seed in range(1, REPEATS + 1):
        played.clear()
        with policy.policy.image_cache():
            rolled = seconds(lambda s=seed: played.extend(roll(policy, questions, s)))
            shares.append(seconds(lambda: term.score(played)) / rolled)
    return {
        "placebos": placebos,
        "rollout_tokens": rollout,
        "gain_tokens": cached,
        "gain_tokens_without_caches": bare,
        "seconds_over_rollout": spread(shares),
    }


def main() -> None:
    torch.set_num_threads(2)
    policy, questions = setting()
    write("information_gain", [row(policy, questions, placebos) for placebos in PLACEBOS])


if __name__ == "__main__":
    main()
