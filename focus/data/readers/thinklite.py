"""ThinkLite-VL (70k and hard-11k): mathematics, charts and general questions at low resolution.

The tables hold the images. The 11k version has `image, problem, answer`; the 70k version also `id`,
`choices` and `ground_truth`. `choices` is a list (or its text, or one option a line) of options
with or without letters, or empty; options in the problem itself take precedence, because letters
refer to the shown options. Both `answer` and `ground_truth` are accepted; with options, the first
of them that names an option is used. There are no boxes.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import OPTION, Options, image_bytes, meta_fields, option_of, parse_list
from focus.data.readers.training import training_draft


def draft(row: Mapping) -> Draft:
    """Raises Bad for an answer that is not one of the choices."""
    stored = [answer for answer in (row["answer"], row.get("ground_truth")) if answer not in (None, "")]
    shown = training_draft(row["problem"], stored, image_bytes(row["image"], "image"), options=_choices(row.get("choices")))
    return replace(shown, meta=meta_fields(row, "id"))


def _choices(stored: object) -> Options:
    if stored is None or (isinstance(stored, str) and stored.strip() in ("", "None", "null")):
        return ()
    if isinstance(stored, str) and not stored.lstrip().startswith("["):
        stored = [line for line in stored.splitlines() if line.strip()]
    texts = [str(text) for text in parse_list(stored, "choices")]
    if all(OPTION.match(text) for text in texts):
        return tuple(option_of(text, "choices") for text in texts)
    return tuple((chr(ord("A") + at), text.strip()) for at, text in enumerate(texts))


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="thinklite",
        about="*.parquet of one version (image, problem, answer; the 70k version also id, choices, ground_truth)",
        licence="MIT",
        counts="70,000 rows, or 11,000 in russwang/ThinkLite-VL-hard-11k, by their names",
        hub=("russwang/ThinkLite-VL-70k",),
        rows=rows_with_ids("**/*.parquet", own="id"),
        draft=draft,
    ),
)
