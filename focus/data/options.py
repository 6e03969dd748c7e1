"""The order in which the options of a question are shown.

Published files favour letters: one evaluator of V* always shows the right option first. A random
order for each question removes this advantage from a policy with a favourite letter. Other policies
lose nothing.
"""

import re
from dataclasses import replace

import numpy as np

from focus.data.sample import Sample

# An option that refers to others by their position can't be moved
REFERS_TO_OTHERS = re.compile(r"\b(?:all|none|both|neither|any) of (?:the )?(?:above|these|following)\b|\b(?:the|from) above\W*$", re.I)
NAMES_OTHERS = re.compile(r"\b[A-F]\)? ?(?:and|or|&|,) ?\(?[A-F]\b|\b[Oo]ptions? \(?[A-F]\b")


def shuffled(sample: Sample, seed: int) -> Sample:
    """The same question with its options in a random order by `seed`.

    `meta["published_keys"]` maps shown keys to published keys. Not moved are: the rotations of
    HR-Bench, whose order is part of the set; options that refer to each other (`both of the
    above`); and the last option of MME-RealWorld, which says that none applies. Questions without
    options do not change.
    """
    options = sample.options
    if len(options) < 2 or "cycle_category" in sample.meta or any(REFERS_TO_OTHERS.search(t) or NAMES_OTHERS.search(t) for _, t in options):
        return sample
    moved = len(options) - sample.source.startswith("mme_rw")
    order = [*map(int, np.random.default_rng(seed).permutation(moved)), *range(moved, len(options))]
    published = {options[new][0]: options[old][0] for new, old in enumerate(order)}
    shown = {old: key for key, old in published.items()}
    return replace(
        sample,
        options=tuple((options[new][0], options[old][1]) for new, old in enumerate(order)),
        answers=(shown[sample.answers[0]], *sample.answers[1:]) if sample.scorer == "letter" else sample.answers,
        meta=sample.meta | {"published_keys": published},
    )
