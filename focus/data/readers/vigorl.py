"""ViGoRL (`gsarch/vigorl_datasets`): of its 125 GB, the visual-search questions for reinforcement learning, about SA-1B photographs.

`visual_search/vigorl_SA_RL.jsonl` has `problem`, `answer` and `images`, one path relative to the folder of the download. Points stand only
inside the traces of other files, so there are no boxes. `visual_search/vstar/vstarbench_test_RL.jsonl`, beside it, is an evaluation set
(V*Bench) and is never read. Neither is web grounding, whose answers are boxes.
"""

from collections.abc import Mapping

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.training import asked, only_image


def draft(row: Mapping) -> Draft:
    """Raises Bad like its parts."""
    return asked(row["problem"], [row["answer"]], only_image(row["images"], "images"))


SETS: tuple[Published, ...] = (
    Published(
        source="vigorl",
        about="visual_search/vigorl_SA_RL.jsonl (problem, answer, images), and the images its paths name",
        licence="MIT",
        counts="not published",
        rows=rows_with_ids("visual_search/vigorl_SA_RL.jsonl", "**/vigorl_SA_RL.jsonl"),
        draft=draft,
    ),
)
