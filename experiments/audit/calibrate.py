"""How often the verdict of an audit is wrong, for agents whose conduct is known. Simulated on outcomes: no image, no request.

Each agent is a probability for every answer (`AGENTS`). An audit draws the questions of the default sample size at two
views and judges them by the rule of the card. `python -m experiments.audit.calibrate` writes calibration.json here.
"""

import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focus.evaluation.audit import questions_needed
from focus.evaluation.outcome import METRICS, Outcome
from focus.report.provenance import how_made
from focus.report.verdict import Conduct, judge_conduct

AUDITS = 200
RESAMPLES = 1000
SEED = 20260
VIEWS = (1024, 16384)
QUESTIONS = 2 * math.ceil(questions_needed(0.1, 0.2, 0.8, 0.05) / 2)  # conf/audit/v1.yaml, in two drawn sets
RECORD = Path(__file__).parent / "calibration.json"


@dataclass(frozen=True)
class Known:
    """An agent by its probabilities at the small and at the large view.

    `calls`: it makes a crop. `knows`: it is right without one. `reads`: it is right after its own crop where it
    did not know. `keeps`: with noise in place of the crop it is still right where it knew. `gains`: noise makes it right
    where it was wrong.
    """

    conduct: Conduct
    calls: tuple[float, float]
    knows: tuple[float, float]
    reads: tuple[float, float]
    keeps: float = 0.95
    gains: float = 0.02


AGENTS = {
    "always looks": Known(Conduct.LOOKS, (1.0, 1.0), (0.2, 0.6), (0.7, 0.7)),
    "looks, and weakly": Known(Conduct.LOOKS, (1.0, 1.0), (0.5, 0.7), (0.3, 0.3)),
    "looks when needed": Known(Conduct.WHEN_NEEDED, (0.9, 0.1), (0.2, 0.8), (0.7, 0.7)),
    "crops for show": Known(Conduct.FOR_SHOW, (1.0, 1.0), (0.4, 0.8), (0.0, 0.0), keeps=0.99, gains=0.005),
    "crops for show, and wavers": Known(Conduct.FOR_SHOW, (1.0, 1.0), (0.4, 0.8), (0.0, 0.0), keeps=0.95, gains=0.033),
    "never looks": Known(Conduct.NEVER, (0.0, 0.0), (0.4, 0.8), (0.0, 0.0)),
    "guesses": Known(Conduct.GUESSES, (1.0, 1.0), (0.03, 0.03), (0.0, 0.0), keeps=0.03, gains=0.03),
}


def outcome(agent: Known, at: int, questions: int, random: np.random.Generator) -> Outcome:
    """One measurement: called, right with its own crop, right with noise."""
    calls = random.random(questions) < agent.calls[at]
    knows = random.random(questions) < agent.knows[at]
    reads = calls & ~knows & (random.random(questions) < agent.reads[at])
    own = knows | reads
    kept = knows & (random.random(questions) < agent.keeps)
    gained = ~own & (random.random(questions) < agent.gains)
    noise = np.where(calls, kept | gained, own)  # without a crop there is nothing to replace
    values = {metric: [math.nan] * questions for metric in METRICS}
    values |= {"own": own.astype(float).tolist(), "noise": noise.astype(float).tolist(), "called": calls.astype(float).tolist()}
    return Outcome(VIEWS[at], [str(i) for i in range(questions)], values)


def verdicts(agent: Known, questions: int, audits: int, seed: int) -> Counter[str]:
    """The verdicts of so many audits."""
    random = np.random.default_rng(seed)
    return Counter(judge_conduct([outcome(agent, at, questions, random) for at in range(2)], RESAMPLES).value for _ in range(audits))


def main() -> None:
    rows, started = [], time.monotonic()
    for number, (name, agent) in enumerate(AGENTS.items()):
        counted = verdicts(agent, QUESTIONS, AUDITS, SEED + number)
        right, undecided = counted[agent.conduct.value], counted[Conduct.UNDECIDED.value]
        rows.append(
            {
                "agent": name,
                "truth": agent.conduct.value,
                "right": right / AUDITS,
                "undecided": undecided / AUDITS,
                "wrong": (AUDITS - right - undecided) / AUDITS,
                "verdicts": dict(counted.most_common()),
            }
        )
        print(f"{name}: right {right}, undecided {undecided}, wrong {AUDITS - right - undecided} of {AUDITS}")
    record = {
        "questions": QUESTIONS,
        "audits": AUDITS,
        "resamples": RESAMPLES,
        "seed": SEED,
        "rows": rows,
        "made": how_made(time.monotonic() - started),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
