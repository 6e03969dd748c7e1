"""ViGoRL (`gsarch/vigorl_datasets`): the visual-search questions for reinforcement learning (of 125
GB in all), about SA-1B photographs.

`visual_search/vigorl_SA_RL.jsonl` has `problem`, `answer` and `images`, one path relative to the
folder of the download. Points occur only in the traces of other files, so there are no boxes.
`visual_search/vstar/vstarbench_test_RL.jsonl` is an evaluation set (V*Bench) and is never read. Web
grounding, whose answers are boxes, is not read either.
"""

from collections.abc import Mapping

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.training import only_image, training_draft


def draft(row: Mapping) -> Draft:
    """Raises Bad like `training_draft` and `only_image`."""
    return training_draft(row["problem"], [row["answer"]], only_image(row["images"], "images"))


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="vigorl",
        about="visual_search/vigorl_SA_RL.jsonl (problem, answer, images), and the images its paths name",
        licence="MIT",
        counts="not published",
        hub=("gsarch/vigorl_datasets",),
        size="125 GB",
        rows=rows_with_ids("visual_search/vigorl_SA_RL.jsonl", "**/vigorl_SA_RL.jsonl"),
        draft=draft,
    ),
)
