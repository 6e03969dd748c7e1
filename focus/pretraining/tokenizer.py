"""Vocabulary of the embedded policy."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from focus.data.boxes import to_view
from focus.data.pages import DIFFICULTY as PAGE_DIFFICULTY
from focus.data.pages import Page, page_spec
from focus.data.scenes import DIFFICULTY, Scene
from focus.model.dialect import read_dialect
from focus.model.prompts import (
    CROP_CONTENT,
    VISION_TOKENS,
    Fault,
    answer_text,
    call_text,
    error_content,
    observation_text,
    question_text,
)

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *VISION_TOKENS,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)


def build_tokenizer(vocabulary: int = 512, pages: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the transcripts of all difficulties; each digit is a token of its own.

    With `pages` the questions of pages are part of the corpus.
    """
    dialect = read_dialect("tiny")
    corpus = []
    for level, spec in DIFFICULTY.items():
        for index in range(400):
            scene = Scene(spec, "train", 10_000_000 + level * 1000 + index)
            text, target = scene.question
            call = call_text(to_view(scene.signs[target].sign_px, dialect.frame, (1, 1), (spec.side_px, spec.side_px)))
            corpus += [
                question_text(dialect, text),
                call,
                observation_text(dialect, CROP_CONTENT, 0, closed=False),
                answer_text(scene.signs[target].text),
            ]
    if pages:
        corpus += [
            question_text(dialect, field.question)
            for level in PAGE_DIFFICULTY
            for index in range(40)
            for panel in Page(page_spec(level, None, 448), "train", 10_000_000 + level * 1000 + index).panels
            for field in panel.fields
        ]
    corpus += [observation_text(dialect, error_content(fault), 0, closed=False) for fault in Fault] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, clean_up_tokenization_spaces=False
    )
