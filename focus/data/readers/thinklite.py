"""ThinkLite-VL (70k and hard-11k): mathematics, charts and general questions at low resolution.

Images stand inside the tables. The 11k version has `image, problem, answer`; the 70k version also `id`, `choices` and `ground_truth`.
`choices` is a list (or its text, or one option a line) of options with or without letters, or empty; options that stand in the problem
itself take precedence, because letters refer to what was shown. Both `answer` and `ground_truth` are accepted; with options the first that
names one counts. No boxes.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import OPTION, Options, image_bytes, listed, native, option_of
from focus.data.readers.training import asked


def draft(row: Mapping) -> Draft:
    """Raises Bad for an answer that is none of the choices."""
    stored = [answer for answer in (row["answer"], row.get("ground_truth")) if answer not in (None, "")]
    shown = asked(row["problem"], stored, image_bytes(row["image"], "image"), options=_choices(row.get("choices")))
    return replace(shown, meta=native(row, "id"))


def _choices(stored: object) -> Options:
    if stored is None or (isinstance(stored, str) and stored.strip() in ("", "None", "null")):
        return ()
    if isinstance(stored, str) and not stored.lstrip().startswith("["):
        stored = [line for line in stored.splitlines() if line.strip()]
    texts = [str(text) for text in listed(stored, "choices")]
    if all(OPTION.match(text) for text in texts):
        return tuple(option_of(text, "choices") for text in texts)
    return tuple((chr(ord("A") + at), text.strip()) for at, text in enumerate(texts))


SETS: tuple[Published, ...] = (
    Published(
        source="thinklite",
        about="*.parquet of one version (image, problem, answer; the 70k version also id, choices, ground_truth)",
        licence="MIT",
        counts="70,000 or 11,000 rows, by the version's name",
        rows=rows_with_ids("**/*.parquet", own="id"),
        draft=draft,
    ),
)
