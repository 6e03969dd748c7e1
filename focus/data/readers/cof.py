"""CoF-RL-Data of Chain-of-Focus: rows in verl's format, whose prompt already contains the tools and
an instruction to think.

The question is `extra_info.question` if it is not empty; else the user's text (not the system
prompt, which lists the tools), cut before its line "Answer ..." and before "Think in the mind
first". The answer is a letter if the question lists options. An image is `{"image":
"./images/x.jpg"}` or the path alone. No boxes.
"""

from collections.abc import Mapping, Sequence

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import meta_fields, question_of
from focus.data.readers.training import accepted_answers, only_image, split_options


def draft(row: Mapping) -> Draft:
    """`meta` keeps the row's own index, which may not be unique across the mixed sets."""
    image = only_image(row["images"], "images")
    extra = row["extra_info"] or {}
    prompt = user_text(row["prompt"])
    prompt_question, prompt_options = split_options(_without_answer_line(question_of(prompt)))
    question, options = split_options(extra.get("question") or "")
    answers, scorer = accepted_answers([row["reward_model"]["ground_truth"]], options or prompt_options, "reward_model.ground_truth")
    return Draft(
        split=extra.get("split") or "train",
        image=image,
        question=question or prompt_question,
        answers=answers,
        scorer=scorer,
        options=options or prompt_options,
        meta=meta_fields(row, "data_source", "ability", "groundtruth_complete") | meta_fields(extra, "index"),
        raw=prompt,
    )


def user_text(prompt: Sequence[Mapping]) -> str:
    """The user's text in a prompt of roles and contents. Raises Bad if there is no user turn."""
    texts = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not texts:
        raise Bad(Reason.NO_QUESTION, "prompt", [turn["role"] for turn in prompt])
    return "\n".join(texts)


def _without_answer_line(text: str) -> str:
    """The text without a last line that says how to answer. A line with a question mark stays."""
    before, _, last = text.rpartition("\n")
    return before if before and last.lstrip().startswith("Answer ") and "?" not in last else text


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="cof_rl",
        about="train.parquet (prompt, images, reward_model, data_source, extra_info), and images.zip unpacked beside it to images/",
        licence=None,
        counts="about 8,860 rows",
        hub=("xintongzhang/CoF-RL-Data",),
        rows=rows_with_ids("train.parquet", "**/train*.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
