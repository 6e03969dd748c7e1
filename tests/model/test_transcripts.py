"""A golden transcript of the embedded policy: three turns, every id and every mask bit. Weights depend on it: it may not move."""

import pytest

from focus.model import loading
from focus.model.loading import EMBEDDED, EMBEDDED_PAGES
from focus.model.prompts import IMAGE_PAD, call_text, encode, question_text
from focus.pretraining.tokenizer import build_tokenizer
from tests.support.scripted import call, playing

PAD = 3
# <|im_start|>system Zoom in with <tool_call>image_zoom_in_tool</tool_call> or answer in <answer></answer>.<|im_end|>
SYSTEM = [1, 96, 397, 212, 377, 330, 396, 234, 8, 346, 9, 358, 353, 330, 389, 341, 27, 2, 212]
# <|im_start|>user <|vision_start|> 16 pads <|vision_end|>What is on the red sign?<|im_end|>
QUESTION = [1, 98, 325, 212, 5, *[PAD] * 16, 6, 376, 379, 356, 352, 351, 442, 406, 44, 2, 212]
ASSISTANT = [1, 321, 327, 212]
CALL = [8, 337, 384, 404, 411, 31, 403]  # <tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[
COMMA, END = 25, [378, 106, 9]  # ]}}</tool_call>
DIGIT = {str(d): 29 + d for d in range(10)}
TOOL = [2, 212, 1, 98, 325, 212, 10, 212]  # <|im_end|> <|im_start|>user <tool_response>
BACK = [212, 11, 2, 212, *ASSISTANT]  # </tool_response><|im_end|> <|im_start|>assistant
OUTSIDE = [423, 351, 234, 359, 356, 234, 457, 508, 503, 351, 417, 422, 417]  # Error: the box is outside the image. No image.
ANSWER = [331, 33, 31, 341, 2]  # <answer>42</answer><|im_end|>


def called(*numbers: int) -> list[int]:
    ids = list(CALL)
    for i, number in enumerate(numbers):
        ids += ([COMMA] if i else []) + [DIGIT[d] for d in str(number)]
    return ids + END


@pytest.fixture(scope="module")
def embedded():
    return loading.load_model(EMBEDDED, "tiny")


def test_three_turns_have_exactly_these_ids_and_this_mask(embedded):
    t = playing(embedded, call(250, 500, 500, 750), call(1100, 1100, 1200, 1200), "<answer>42</answer><|im_end|>", max_crops=2)
    parts = [
        (SYSTEM + QUESTION + ASSISTANT, False),
        (called(250, 500, 500, 750), True),
        ([*TOOL, 5, *[PAD] * 16, 6, *BACK], False),
        (called(1100, 1100, 1200, 1200), True),
        ([*TOOL, *OUTSIDE, *BACK], False),
        (ANSWER, True),
    ]
    assert t.sample.question == "What is on the red sign?"
    assert t.ids == [i for ids, _ in parts for i in ids]
    assert t.sampled_mask == [sampled for ids, sampled in parts for _ in ids]


def test_the_fixed_prompt_and_a_call_are_short(embedded):
    fixed = encode(embedded.tokenizer, question_text(embedded.dialect, ""), [0])
    assert len(fixed) <= 64
    assert len(embedded.tokenizer.encode(call_text((1000, 1000, 1000, 1000)), add_special_tokens=False)) <= 30


def test_digits_stand_alone(embedded):
    assert embedded.tokenizer.encode("90210") == [DIGIT[d] for d in "90210"]


def test_special_tokens_are_single_ids(embedded):
    for token in ("<|im_start|>", "<|im_end|>", IMAGE_PAD, "<tool_call>", "</tool_call>", "<tool_response>", "<think>", "</think>"):
        assert len(embedded.tokenizer.encode(token)) == 1


def test_any_text_survives_the_tokenizer(embedded):
    for text in ("Straße 東京 ✓", 'tab\tand "quotes"', "<tool_call>{"):
        assert embedded.tokenizer.decode(embedded.tokenizer.encode(text)) == text


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_builds(embedded):
    """Scenes are its corpus: a change of them that moves an id would silently ruin the weights."""
    assert build_tokenizer().backend_tokenizer.to_str() == embedded.tokenizer.backend_tokenizer.to_str()


def test_the_embedded_policies_fit_into_ten_megabytes():
    assert sum(path.stat().st_size for folder in (EMBEDDED, EMBEDDED_PAGES) for path in folder.iterdir()) < 10_000_000
    for folder in (EMBEDDED, EMBEDDED_PAGES):
        parameters = sum(p.numel() for p in loading.load_model(folder, "tiny").model.parameters())
        assert 2_000_000 <= parameters <= 4_000_000
