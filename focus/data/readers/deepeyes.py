"""DeepEyes-Datasets-47k (`ChenShawn/DeepEyes-Datasets-47k`): rows in verl's form, with the images
inside three tables.

The system prompt describes the tool and is dropped; the user's text loses its image tag and "Think
first, call **image_zoom_in_tool**". The answers of `vstar` rows are whole sentences, so they are
judged; `chart` and `thinklite_eureka` rows often have options. Row groups decompress to 1 to 2 GB,
so eight rows are read at a time. There are no boxes; `seal` and `treevgr_rl` have boxes for the
`vstar` images.

One label is known to be wrong: "row 10681" of the `vstar` table. The row is found by
`extra_info.index`. If that number means another row, one good row of 22,362 is lost and counted
under this reason.
"""

from collections.abc import Mapping

from focus.data.readers.cof import user_text
from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import meta_fields, question_of
from focus.data.readers.training import accepted_answers, only_image, split_options

KNOWN_WRONG = "10681"


def draft(row: Mapping) -> Draft:
    """`meta` keeps the row's own index; each of the three tables may count from 0."""
    extra = row["extra_info"] or {}
    natural = row["data_source"] == "vstar"
    if natural and str(extra.get("index")) == KNOWN_WRONG:
        raise Bad(Reason.KNOWN_WRONG_LABEL, "extra_info.index", KNOWN_WRONG)
    prompt = user_text(row["prompt"])
    question, options = (question_of(prompt), ()) if natural else split_options(prompt)
    answers, scorer = accepted_answers([row["reward_model"]["ground_truth"]], options, "reward_model.ground_truth")
    return Draft(
        split=extra.get("split") or "train",
        image=only_image(row["images"], "images"),
        question=question,
        answers=answers,
        scorer="judge" if natural else scorer,
        options=options,
        meta=meta_fields(row, "data_source", "ability", "env_name") | meta_fields(extra, "index"),
        raw=prompt,
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="deepeyes47k",
        about="data_0.1.2_visual_toolbox_v2.parquet, data_v0.8_visual_toolbox_v2.parquet and data_thinklite_reasoning_acc.parquet, "
        "or some of them (prompt, images, reward_model, extra_info, data_source)",
        licence="Apache-2.0",
        counts="about 47,000 rows: 22,362 of vstar; those of chart and thinklite_eureka are not published",
        hub=("ChenShawn/DeepEyes-Datasets-47k",),
        rows=rows_with_ids("*.parquet", "**/*.parquet"),  # any of the three tables
        draft=draft,
    ),
)
