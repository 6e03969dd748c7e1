"""CoF-RL-Data of Chain-of-Focus: rows in verl's form, whose prompt already holds the tools and an instruction to think.

The question is `extra_info.question` where that is filled; else the user's text (never the system's, which lists the tools), cut before
its line "Answer ..." and before "Think in the mind first". The answer is a letter where the question lists options. An image is
`{"image": "./images/x.jpg"}` or the path alone. No boxes.
"""

from collections.abc import Mapping

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import native, question_of
from focus.data.readers.training import answered, only_image, parted


def draft(row: Mapping) -> Draft:
    """`meta` keeps the row's own index, which need not be unique across the sets it was mixed from."""
    image = only_image(row["images"], "images")
    extra = row["extra_info"] or {}
    asked = user_text(row["prompt"])
    in_prompt, listed_there = parted(_without_answer_line(question_of(asked)))
    question, options = parted(extra.get("question") or "")
    answers, scorer = answered([row["reward_model"]["ground_truth"]], options or listed_there, "reward_model.ground_truth")
    return Draft(
        split=extra.get("split") or "train",
        image=image,
        question=question or in_prompt,
        answers=answers,
        scorer=scorer,
        options=options or listed_there,
        meta=native(row, "data_source", "ability", "groundtruth_complete") | native(extra, "index"),
        raw=asked,
    )


def user_text(prompt: list[Mapping]) -> str:
    """What the user says in a prompt of roles and contents. Raises Bad if nobody is called user."""
    said = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not said:
        raise Bad(Reason.NO_QUESTION, "prompt", [turn["role"] for turn in prompt])
    return "\n".join(said)


def _without_answer_line(text: str) -> str:
    """The text without a last line that says how to answer; one that asks something stays."""
    before, _, last = text.rpartition("\n")
    return before if before and last.lstrip().startswith("Answer ") and "?" not in last else text


SETS: tuple[Published, ...] = (
    Published(
        source="cof_rl",
        about="train.parquet (prompt, images, reward_model, data_source, extra_info), and images.zip unpacked beside it to images/",
        licence="see the dataset's card",
        counts="not published",
        rows=rows_with_ids("train.parquet", "**/train*.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
