"""The order in which the options of a question are shown.

Published files favour letters: one evaluator of V* shows the right option first, always. An order drawn for each question takes that away
from a policy with a favourite letter, and costs the others nothing.
"""

import re
from dataclasses import replace

import numpy as np

from focus.data.sample import Sample

# An option that speaks of others by their place can't be moved
SPEAKS_OF_OTHERS = re.compile(r"\b(?:all|none|both|neither|any) of (?:the )?(?:above|these|following)\b|\b(?:the|from) above\W*$", re.I)
NAMES_OTHERS = re.compile(r"\b[A-F]\)? ?(?:and|or|&|,) ?\(?[A-F]\b|\b[Oo]ptions? \(?[A-F]\b")


def shuffled(sample: Sample, seed: int) -> Sample:
    """The same question, its options in an order drawn by `seed`; `meta["published_keys"]` maps the keys shown to those published.

    As published stay: the rotations of HR-Bench, which are an order already; options that speak of each other (`both of the above`); and
    the last option of MME-RealWorld, which says that none applies. Questions without options are returned as they are.
    """
    options = sample.options
    if len(options) < 2 or "cycle_category" in sample.meta or any(SPEAKS_OF_OTHERS.search(t) or NAMES_OTHERS.search(t) for _, t in options):
        return sample
    moved = len(options) - sample.source.startswith("mme_rw")
    order = [*map(int, np.random.default_rng(seed).permutation(moved)), *range(moved, len(options))]
    published = {options[place][0]: options[old][0] for place, old in enumerate(order)}
    shown = {old: key for key, old in published.items()}
    return replace(
        sample,
        options=tuple((options[place][0], options[old][1]) for place, old in enumerate(order)),
        answers=(shown[sample.answers[0]], *sample.answers[1:]) if sample.scorer == "letter" else sample.answers,
        meta=sample.meta | {"published_keys": published},
    )
