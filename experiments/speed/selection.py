"""What resolution selection (E2) costs in forward tokens. `python -m experiments.speed.selection` writes selection.json.

Counts, not seconds: a prompt counts once per question and level, and so does every generated token. They depend on the machine only
where two words are equally probable to the last bit.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_dir

from experiments.speed.timing import write
from focus.build import load_policy, training_samples
from focus.config import CONF
from focus.data.sample import Sample
from focus.evaluation.level_search import DROPPED_NATIVE, LevelOutcome
from focus.evaluation.selection import Choice, Tokens, choose, total_tokens
from focus.evaluation.selection_record import audit
from focus.gap import Search
from focus.model.policy_model import PolicyModel
from focus.model.prompts import IMAGE_PAD, encode, question_text
from focus.rollout.kv import KVEngine

TARGET = 0.6  # of the exhaustive ladder's forward tokens, with identical choices
VOTES = 8


def certificate(outcome: LevelOutcome, levels: int) -> range:
    """The levels that ANY exact search must have asked before it may state this outcome. `levels` counts native.

    An unasked native may be wrong, an unasked level before k* may diverge, an unasked k* may agree.
    """
    if outcome == DROPPED_NATIVE:
        return range(1)
    return range(outcome + 1) if isinstance(outcome, int) else range(levels)


def least(choice: Choice) -> Tokens:
    """Forward tokens of the certificate, for a question of which every level was asked."""
    return total_tokens(choice.asked[level] for level in certificate(choice.outcome, len(choice.asked)))


def row(tokens: Tokens, exhaustive: Tokens) -> dict[str, float]:
    """A row of the table: forward tokens, and their ratio to the exhaustive ladder's."""
    return {"visual": tokens.visual, "text": tokens.text, "all": sum(tokens), "ratio": round(sum(tokens) / sum(exhaustive), 4)}


@dataclass(frozen=True)
class Text:
    """Text tokens of a question's prompt, the view and the forced `<answer>` left out."""

    before_view: int  # the system prompt: the same for every question and level
    prompt: int


def text_of(policy: PolicyModel, sample: Sample) -> Text:
    """Counted with the policy's own tokenizer."""
    text = question_text(policy.dialect, sample.question, sample.options)
    return Text(len(encode(policy.tokenizer, text.split(IMAGE_PAD)[0])), len(encode(policy.tokenizer, text, [0])))


def savings(every: Sequence[Choice], texts: Sequence[Text]) -> dict[str, float]:
    """What each exact saving brings: forward tokens with it over those without it."""
    exhaustive, exact = sum(total_tokens(c.exhaustive for c in every)), sum(total_tokens(map(least, every)))
    native_settles = sum(sum(c.asked[0] if c.outcome == DROPPED_NATIVE else c.exhaustive) for c in every)
    all_prompts, prompts = sum(len(c.asked) for c in every), sum(len(certificate(c.outcome, len(c.asked))) for c in every)
    before = texts[0].before_view
    asked = [(sum(tokens), tokens.visual + text.prompt) for c, text in zip(every, texts, strict=True) for tokens in c.asked.values()]
    voted = sum(prompt + VOTES * (answered - prompt) for answered, prompt in asked)
    ratios = {
        "a question that is wrong at native asks no other level": native_settles / exhaustive,
        "after that, early exit of the others": exact / native_settles,
        "both, which is the ladder": exact / exhaustive,
        "the text before the view encoded once for all prompts of the ladder only (not built)": (
            (exact - (prompts - 1) * before) / exhaustive
        ),
        "the text before the view encoded once in ladder and exhaustive (not built)": (
            (exact - (prompts - 1) * before) / (exhaustive - (all_prompts - 1) * before)
        ),
        f"decoding=vote: {VOTES} votes on one prompt instead of {VOTES} prompts, either search": (
            voted / (VOTES * sum(answered for answered, _ in asked))
        ),
    }
    return {name: round(ratio, 4) for name, ratio in ratios.items()}


def wrong_needed(every: Sequence[Choice]) -> float:
    """The least share of questions wrong at native at which an exact search can meet the target: all others diverge at level 1."""
    exhaustive = sum(total_tokens(c.exhaustive for c in every))
    native = sum(total_tokens(c.asked[0] for c in every)) / exhaustive
    level_1 = sum(total_tokens(c.asked[k] for c in every for k in (0, 1))) / exhaustive
    return round((level_1 - TARGET) / (level_1 - native), 4)


def main() -> None:
    """Run the three searches on the embedded policy and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, help="training scenes of level 1, 448 px")
    scenes = parser.parse_args().scenes
    torch.set_num_threads(1)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("calibrate", [f"data.scenes={scenes}", "data.difficulty=1", "data.side_px=448"])
    policy, samples = load_policy(cfg.policy), training_samples(cfg.data)
    engine, per_forward = KVEngine(policy), cfg.questions_per_forward
    chunks = [[samples[i] for i in range(first, min(first + per_forward, scenes))] for first in range(0, scenes, per_forward)]
    found = {
        search: [c for chunk in chunks for c in choose(policy, engine, chunk, search, cfg.calibration, cfg.tokens_per_turn, cfg.seed)]
        for search in Search
    }
    every = found[Search.EXHAUSTIVE]
    exhaustive, texts = total_tokens(c.exhaustive for c in every), [text_of(policy, s) for chunk in chunks for s in chunk]
    searches = {}
    for search, choices in found.items():
        spent = total_tokens(tokens for c in choices for tokens in c.asked.values())
        identical = sum(ours.outcome == reference.outcome for ours, reference in zip(choices, every, strict=True))
        searches[search.value] = row(spent, exhaustive) | {"identical_choices": identical}
    bound = row(total_tokens(map(least, every)), exhaustive)
    by_outcome = Counter(str(c.outcome) for c in every)
    outcomes = {}
    for outcome, count in sorted(by_outcome.items()):
        those = [c for c in every if str(c.outcome) == outcome]
        ratio = sum(total_tokens(map(least, those))) / sum(total_tokens(c.exhaustive for c in those))
        outcomes[outcome] = {"share": round(count / scenes, 4), "least_ratio": round(ratio, 4)}
    compared = audit(list(zip(found[Search.BISECTION], every, strict=True)))
    write(
        "selection",
        {
            "scenes": scenes,
            "searches": searches,
            "least_of_any_exact_search": bound,
            "target": {"ratio": TARGET, "met": bound["ratio"] <= TARGET, "needs_share_wrong_at_native": wrong_needed(every)},
            "outcomes": outcomes,
            "bisection_against_exact": {key: compared[key] for key in ("questions", "mismatches", "share", "differ")},
            "exact_savings": savings(every, texts),
        },
    )


if __name__ == "__main__":
    main()
