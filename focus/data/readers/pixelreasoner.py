r"""PixelReasoner-RL-Data: questions about images and videos; the videos are left out.

`answer` is a list with one `\boxed{...}`. Braces inside it balance, so it is not sliced; inside may stand the text of a list of strings,
which are several accepted answers (a list of numbers is one answer, such as an interval). `is_video` is true, false or null; the frames of
a video stand in `image` like images, so rows of several images are left out too. No boxes.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import boxed, listed, native
from focus.data.readers.training import asked, only_image


def draft(row: Mapping) -> Draft:
    """Raises Bad for a video, and for an answer that is a torn list."""
    if row["is_video"] is True:
        raise Bad(Reason.VIDEO, "is_video", True)
    image = only_image(row["image"], "image")
    stored = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    answers = [text for entry in stored for text in _alternatives(boxed(entry))]
    return replace(asked(row["question"], answers, image), meta=native(row, "is_video"))


def _alternatives(text: str) -> list[str]:
    if not text.replace(" ", "").startswith(("['", '["')):
        return [text]
    return listed(text, "answer")


SETS: tuple[Published, ...] = (
    Published(
        source="pixelreasoner",
        about="release.parquet (question, answer, image, is_video, qid), and images.zip unpacked beside it to images/",
        licence="Apache-2.0",
        counts="about 15,400 rows with videos",
        rows=rows_in("release.parquet", "**/*.parquet"),
        draft=draft,
        ids=("qid",),
    ),
)
