"""ViGoRL (`gsarch/vigorl_datasets`): of its 125 GB, the visual-search questions for reinforcement learning, about SA-1B photographs.

`visual_search/vigorl_SA_RL.jsonl` has `problem`, `answer` and `images`, one path relative to the folder of the download. Points stand only
inside the traces of other files, so there are no boxes. `visual_search/vstar/vstarbench_test_RL.jsonl`, beside it, is an evaluation set
(V*Bench) and is never read. Neither is web grounding, whose answers are boxes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import find
from focus.data.readers.training import answered, only_image, parted, rows_with_ids


def rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of its visual-search table."""
    yield from rows_with_ids(find(root, "visual_search/vigorl_SA_RL.jsonl", "**/vigorl_SA_RL.jsonl"))


def draft(row: Mapping) -> Draft:
    """Raises Bad like its parts."""
    question, options = parted(row["problem"])
    answers, scorer = answered([row["answer"]], options, "answer")
    return Draft(
        split="train",
        image=only_image(row["images"], "images"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        raw=row["problem"],
    )


SETS: tuple[Published, ...] = (
    Published(
        source="vigorl",
        about="visual_search/vigorl_SA_RL.jsonl (problem, answer, images), and the images its paths name",
        licence="MIT",
        counts="not published",
        rows=rows,
        draft=draft,
    ),
)
