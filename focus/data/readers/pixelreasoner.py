r"""PixelReasoner-RL-Data: questions about images and videos; the videos are left out.

`answer` is a list with one `\boxed{...}`, which may contain braces. Its content may be the text of
a list of strings: several accepted answers. A list of numbers is one answer, such as an interval.
`is_video` is true, false or null; `image` also holds the frames of a video, so rows of several
images are left out too. There are no boxes.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import last_boxed, meta_fields, parse_list
from focus.data.readers.training import only_image, training_draft


def draft(row: Mapping) -> Draft:
    """Raises Bad for a video, and for an answer that is a broken list."""
    if row["is_video"] is True:
        raise Bad(Reason.VIDEO, "is_video", True)
    image = only_image(row["image"], "image")
    stored = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    answers = [text for entry in stored for text in _alternatives(last_boxed(entry))]
    return replace(training_draft(row["question"], answers, image), meta=meta_fields(row, "is_video"))


def _alternatives(text: str) -> list[str]:
    if not text.replace(" ", "").startswith(("['", '["')):
        return [text]
    return parse_list(text, "answer")


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="pixelreasoner",
        about="release.parquet (question, answer, image, is_video, qid), and images.zip unpacked beside it to images/",
        licence="Apache-2.0",
        counts="about 15,400 rows with videos",
        hub=("TIGER-Lab/PixelReasoner-RL-Data release.parquet images.zip",),
        size="2.3 GB without the videos",
        rows=rows_in("release.parquet", "**/*.parquet"),
        draft=draft,
        ids=("qid",),
    ),
)
