"""What the model reads, letter by letter, and what is made of what it writes."""

import json
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.data.boxes import Frame
from focus.model.dialect import read_dialect
from focus.model.prompts import (
    CROP_CONTENT,
    END_TOKENS,
    IMAGE_PAD,
    VISION_TOKENS,
    Answer,
    Call,
    Fault,
    Malformed,
    answer_text,
    call_text,
    encode,
    error_content,
    observation_text,
    parse,
    question_text,
    user_text,
)

PROPERTY = settings(deadline=None, database=None)
TINY = read_dialect("tiny")
read = partial(parse, dialect=TINY)

# ------------------------------------------------------------------------------------------------- golden transcripts
# Written out by hand, from the layout of Qwen-VL's chat template: turns are `<|im_start|>role\n...<|im_end|>\n`, an image is one pad
# between vision marks, tool results come back in a user turn.


def system_of(coordinates: str) -> str:
    return (
        "You are a helpful assistant.\n"
        "\n"
        "# Tools\n"
        "You may call one function to look closer before you answer.\n"
        "<tools>\n"
        '{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Zoom in on a region of the image: '
        'returns that region, cut from the original at full resolution.", "parameters": {"type": "object", '
        '"required": ["bbox_2d"], "properties": {"bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, '
        '"maxItems": 4, "description": "[x1, y1, x2, y2] of the region, ' + coordinates + '."}, '
        '"label": {"type": "string", "description": "What is in the region (optional)."}}}}}\n'
        "</tools>\n"
        "\n"
        "For a call, return a JSON object with the function's name and arguments:\n"
        '<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[x1,y1,x2,y2]}}</tool_call>\n'
        "\n"
        "You may think between <think> and </think> first. Give the final answer as <answer>...</answer>."
    )


SYSTEMS = {
    "qwen2_5_vl": system_of("in pixels of the image as shown"),
    "qwen3_vl": system_of("0 to 1000 from the left and the top of the image"),
    "tiny": "Zoom in with <tool_call>image_zoom_in_tool</tool_call> or answer in <answer></answer>.",
}


@pytest.mark.parametrize("family", SYSTEMS)
def test_an_open_question_is_laid_out_letter_by_letter(family):
    assert question_text(read_dialect(family), "What is on the red sign?") == (
        "<|im_start|>system\n" + SYSTEMS[family] + "<|im_end|>\n"
        "<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is on the red sign?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("family", SYSTEMS)
def test_a_choice_question_lists_its_options_in_order_and_asks_for_a_letter(family):
    text = question_text(read_dialect(family), "What is the glove made of?", (("A", "rubber"), ("B", "cotton"), ("E", "cannot tell")))
    assert text == (
        "<|im_start|>system\n" + SYSTEMS[family] + "<|im_end|>\n"
        "<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is the glove made of?\n"
        "A. rubber\n"
        "B. cotton\n"
        "E. cannot tell\n"
        "Answer with the letter of one option.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_turn_of_qwen3_5_begins_with_a_closed_thought_and_its_example_call_is_one():
    dialect = read_dialect("qwen3_5")
    text = question_text(dialect, "What is it?")
    assert text.endswith("What is it?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "assistant" not in text.removesuffix("assistant\n<think>\n\n</think>\n\n").replace("helpful assistant", "")
    assert observation_text(dialect, CROP_CONTENT, 0, closed=True) == (
        "\n<|im_start|>user\n<tool_response>\n<|vision_start|><|image_pad|><|vision_end|>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    example = dialect.system.partition("like this:\n")[2].partition("\n\n")[0]
    assert parse(example.replace("[x1, y1, x2, y2]", "[120, 300, 260, 420]"), dialect) == Call((120, 300, 260, 420))


def test_a_crop_comes_back_in_a_user_turn_after_the_call_is_closed():
    assert observation_text(TINY, CROP_CONTENT, 0, closed=False) == (
        "<|im_end|>\n"
        "<|im_start|>user\n"
        "<tool_response>\n"
        "<|vision_start|><|image_pad|><|vision_end|>\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_turn_that_the_model_closed_itself_is_not_closed_again():
    assert observation_text(TINY, CROP_CONTENT, 0, closed=True) == (
        "\n"
        "<|im_start|>user\n"
        "<tool_response>\n"
        "<|vision_start|><|image_pad|><|vision_end|>\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_error_comes_back_as_text_without_an_image():
    assert observation_text(TINY, error_content(Fault.OUTSIDE), 0, closed=False) == (
        "<|im_end|>\n"
        "<|im_start|>user\n"
        "<tool_response>\n"
        "Error: the box is outside the image. No image.\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_three_turn_conversation_reads_as_one_chat_transcript():
    spoken = call_text((100.0, 200.4, 299.6, 400.0))
    assert question_text(TINY, "What is on the red sign?") + spoken + observation_text(TINY, CROP_CONTENT, 0, closed=False) + answer_text(
        "42"
    ) == (
        "<|im_start|>system\n"
        "Zoom in with <tool_call>image_zoom_in_tool</tool_call> or answer in <answer></answer>.<|im_end|>\n"
        "<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is on the red sign?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[100,200,300,400]}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n"
        "<tool_response>\n"
        "<|vision_start|><|image_pad|><|vision_end|>\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
        "<answer>42</answer><|im_end|>"
    )


# The form of the calls of three agents, in our own words: what each reads of a question, with and without the tool, of a crop and of
# an error. `ask` and `see` shorten what every conversation has.


def ask(system: str, user: str) -> str:
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def see(user: str) -> str:
    return f"\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


AGENTS = {
    "deepeyes": {
        "system": (
            "You answer questions about an image. One tool shows you a part of the image again, enlarged.\n"
            "\n"
            "<tools>\n"
            '{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Returns the part of the image inside a box, '
            'cut from the original at full resolution.", "parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array", '
            '"items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": "Left, top, right and bottom edge of the box, in '
            'pixels of the image that you see."}, "label": {"type": "string", "description": "What you expect to find there. Optional."}}, '
            '"required": ["bbox_2d"]}}}\n'
            "</tools>\n"
            "\n"
            "To use it, end your turn with one JSON object between tags, like this:\n"
            "<tool_call>\n"
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [40, 60, 180, 220], "label": "the road sign"}}\n'
            "</tool_call>"
        ),
        "user": (
            "What is it?\nReason between <think> and </think>. Then either use the tool or write the final answer between <answer> and "
            "</answer>."
        ),
        "plain_system": "You answer questions about an image.",
        "plain_user": "What is it?\nReason between <think> and </think>. Then write the final answer between <answer> and </answer>.",
        "crop": (
            "<tool_response><|vision_start|><|image_pad|><|vision_end|>\nThis is the part you asked for. Reason between <think> and "
            "</think>. Then either use the tool again or write the final answer between <answer> and </answer>.</tool_response>"
        ),
        "error": "<tool_response>Error: the box is outside the image. No image.</tool_response>",
    },
    "mini_o3": {
        "system": (
            "You answer a question about an image. Reason between <think> and </think> before you act.\n"
            "To see a part of an image enlarged, end your turn with its box as JSON between tags, like this:\n"
            '<grounding>{"bbox_2d": [0.1, 0.25, 0.4, 0.5], "source": "original_image"}</grounding>\n'
            '"bbox_2d" holds the left, top, right and bottom edge of the box as fractions of the image\'s width and height, from 0 to 1. '
            '"source" selects the image to cut: "original_image" is the image of the question, "observation_1" the first part that you '
            'were shown, "observation_2" the second, and so on.\n'
            "When you are sure, write the final answer between <answer> and </answer>."
        ),
        "user": "\nWhat is it?",
        "plain_system": (
            "You answer a question about an image. Reason between <think> and </think> before you act.\n"
            "When you are sure, write the final answer between <answer> and </answer>."
        ),
        "plain_user": "\nWhat is it?",
        "crop": (
            "This is observation_3:\n<|vision_start|><|image_pad|><|vision_end|>\nReason between <think> and </think>. Then cut another "
            "part of any image you have seen, or write the final answer between <answer> and </answer>."
        ),
        "error": (
            "Error: the box is outside the image. No image.\nReason about this error between <think> and </think>. Then correct your call, "
            "or write the final answer between <answer> and </answer>."
        ),
    },
    "qwen3_vl_zoom": {
        "system": (
            "You answer questions about an image. One tool shows you a part of an image again, enlarged.\n"
            "\n"
            "<tools>\n"
            '{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Returns the part of an image inside a box, '
            'cut from the original at full resolution.", "parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array", '
            '"items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": "Left, top, right and bottom edge of the box, in '
            'thousandths of the image\'s width and height, 0 to 1000."}, "label": {"type": "string", "description": "What you expect to '
            'find there."}, "img_idx": {"type": "integer", "description": "The image to cut: 0 is the image of the question, 1 the first '
            'part that you were shown, and so on."}}, "required": ["bbox_2d", "label", "img_idx"]}}}\n'
            "</tools>\n"
            "\n"
            "To use it, end your turn with one JSON object between tags, like this:\n"
            "<tool_call>\n"
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [120, 300, 260, 420], "label": "the road sign", "img_idx": 0}}\n'
            "</tool_call>\n"
            "When you are sure, write the final answer between <answer> and </answer>."
        ),
        "user": "What is it?",
        "plain_system": ("You answer questions about an image.\nWhen you are sure, write the final answer between <answer> and </answer>."),
        "plain_user": "What is it?",
        "crop": "<tool_response>\n<|vision_start|><|image_pad|><|vision_end|>\n</tool_response>",
        "error": "<tool_response>\nError: the box is outside the image. No image.\n</tool_response>",
    },
}


@pytest.mark.parametrize(("name", "texts"), AGENTS.items(), ids=AGENTS)
def test_an_agent_is_asked_in_our_own_words_letter_by_letter(name, texts):
    dialect = read_dialect(name)
    assert question_text(dialect, "What is it?") == ask(texts["system"], texts["user"])
    assert question_text(dialect.without_tool(), "What is it?") == ask(texts["plain_system"], texts["plain_user"])
    assert observation_text(dialect, CROP_CONTENT, 2, closed=True) == see(texts["crop"])
    assert observation_text(dialect, error_content(Fault.OUTSIDE), 2, closed=True) == see(texts["error"])


@pytest.mark.parametrize(("name", "texts"), AGENTS.items(), ids=AGENTS)
def test_the_example_call_in_a_system_prompt_is_one_that_is_carried_out(name, texts):
    dialect = read_dialect(name)
    opening, closing = dialect.call
    example = opening + texts["system"].split(opening)[1].split(closing)[0] + closing
    assert isinstance(parse(example, dialect), Call)


def test_every_family_speaks_in_its_own_frame():
    assert read_dialect("qwen2_5_vl").frame is Frame.VIEW_PIXELS  # absolute pixels of the resized image
    assert read_dialect("qwen3_vl").frame is Frame.PER_MILLE  # 0 to 1000
    assert TINY.frame is Frame.PER_MILLE


def test_a_turn_stops_at_a_closed_call_or_at_the_end_of_the_turn():
    assert {TINY.call[1], *END_TOKENS} == {"</tool_call>", "<|im_end|>", "<|endoftext|>"}


def test_every_vision_token_is_named_for_the_ban_from_sampling():
    assert set(VISION_TOKENS) == {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"}


# ---------------------------------------------------------------------------------------------------------- encoding


class Letters:
    """A tokenizer with one id for each character; the image pad is 7."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(letter) for letter in text]

    def convert_tokens_to_ids(self, tokens: str) -> int:
        assert tokens == "<|image_pad|>"
        return 7


def test_each_image_place_becomes_as_many_pads_as_its_image_has_tokens():
    ids = encode(Letters(), f"ab{IMAGE_PAD}c{IMAGE_PAD}{IMAGE_PAD}", [3, 1, 2])
    assert ids == [97, 98, 7, 7, 7, 99, 7, 7, 7]


def test_text_without_images_is_encoded_as_it_is_and_nothing_is_put_in_front():
    assert encode(Letters(), "abc") == [97, 98, 99]


@pytest.mark.parametrize(
    ("text", "tokens", "message"),
    [
        ("ab", [3], "0 image places for 1 images"),
        (f"a{IMAGE_PAD}b", [], "1 image places for 0 images"),
        (f"a{IMAGE_PAD}b{IMAGE_PAD}", [3], "2 image places for 1 images"),
    ],
)
def test_a_text_with_more_or_fewer_places_than_images_is_refused(text, tokens, message):
    with pytest.raises(ValueError, match=message):
        encode(Letters(), text, tokens)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 40), st.text("abc \n", max_size=5))))
def test_the_number_of_pads_is_the_number_of_image_tokens(pieces):
    ids = encode(Letters(), "".join(IMAGE_PAD + text for _, text in pieces), [count for count, _ in pieces])
    assert ids.count(7) == sum(count for count, _ in pieces)


# ----------------------------------------------------------------------------------------------------------- parsing


def call(box: str, name: str = "image_zoom_in_tool") -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "box_view"),
    [
        (call("[1, 2, 3, 4]"), (1, 2, 3, 4)),
        ('<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[1,2,3,4]}}</tool_call>', (1, 2, 3, 4)),
        ('<tool_call>\n{"name": "image_zoom_in_tool",\n  "arguments": {"bbox_2d":\t[1, 2, 3, 4]}}\n</tool_call>', (1, 2, 3, 4)),
        ('<tool_call>{"arguments":{"label":"a sign","bbox_2d":[1,2,3,4]},"name":"image_zoom_in_tool"}</tool_call>', (1, 2, 3, 4)),
        ('<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[1,2,3,4],"label":"\\u00e9 \\" }"}}</tool_call>', (1, 2, 3, 4)),
        (call("[1.5, 2.25, 3e2, 4E1]"), (1.5, 2.25, 300, 40)),
        (call("[-5, -0.5, 3, 4]"), (-5, -0.5, 3, 4)),  # outside is not decided here
        (call("[9, 8, 1, 2]"), (9, 8, 1, 2)),  # neither is the order of the corners
        (call("[1e9, 0, 3, 4]"), (1e9, 0, 3, 4)),
        ("<think>The sign is far away.</think>\n" + call("[1, 2, 3, 4]") + "<|im_end|>", (1, 2, 3, 4)),
        ("I look closer. " + call("[1, 2, 3, 4]"), (1, 2, 3, 4)),
    ],
)
def test_a_call_is_read_whatever_its_spacing_key_order_or_number_form(text, box_view):
    assert read(text) == Call(box_view)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>42</answer>", "42"),
        ("<answer>\n 42 \n</answer><|im_end|>", "42"),
        ("<think>It says 42.</think><answer>42</answer>", "42"),
        ("So it is <answer>B) cotton</answer>", "B) cotton"),
        ("<answer>1 < 2</answer>", "1 < 2"),
        ("<answer>\u5341</answer>", "\u5341"),
    ],
)
def test_an_answer_is_what_stands_between_its_tags_without_surrounding_space(text, answer):
    assert read(text) == Answer(answer)


FAULTS = [
    (
        Fault.NO_ACTION,
        [
            "",
            "42",
            "the sign is red",
            "</answer>",
            "</tool_call>",
            "<Answer>42</Answer>",
            "answer: 42",
            "<think>I never stop <answer>42</answer>",
        ],
    ),
    (
        Fault.CALL_AND_ANSWER,
        [
            call("[1, 2, 3, 4]") + "<answer>42</answer>",
            "<answer>42</answer>" + call("[1, 2, 3, 4]"),
            "<answer><tool_call></answer>",
            "<tool_call><answer>",
        ],
    ),
    (Fault.UNCLOSED, ["<answer>42", "<answer>42<|im_end|>", "<tool_call>{", "<answer>42</tool_call>", "</answer><answer>42"]),
    (
        Fault.REPEATED,
        [
            "<answer>1</answer><answer>1</answer>",
            call("[1, 2, 3, 4]") * 2,
            "<answer>1</answer></answer>",
            "<answer><answer>1</answer>",
            "<tool_call><tool_call>",
        ],
    ),
    (
        Fault.NOT_JSON,
        [
            "<tool_call></tool_call>",
            "<tool_call>zoom in on the sign</tool_call>",
            call("[1, 2, 3, 4,]"),
            call("[1, 2, 3, +4]"),
            call("[01, 2, 3, 4]"),
            call("(1, 2, 3, 4)"),
            call("[0x1, 2, 3, 4]"),
            call("[__import__('os').getpid(), 2, 3, 4]"),
            "<tool_call>{'name': 'image_zoom_in_tool'}</tool_call>",
            call(f"[{10**4000}{10**4000}, 2, 3, 4]"),
            "<tool_call>" + "[" * 200_000 + "</tool_call>",
            "<tool_call>" + '{"a":' * 200_000 + "</tool_call>",
        ],
    ),
    (
        Fault.UNKNOWN_TOOL,
        [
            call("[1, 2, 3, 4]", name="zoom"),
            call("[1, 2, 3, 4]", name="IMAGE_ZOOM_IN_TOOL"),
            "<tool_call>{}</tool_call>",
            '<tool_call>{"arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>',
            "<tool_call>[1, 2, 3, 4]</tool_call>",
            "<tool_call>null</tool_call>",
            '<tool_call>{"name": ["image_zoom_in_tool"]}</tool_call>',
        ],
    ),
    (
        Fault.NO_BOX,
        [
            call("[1, 2, 3]"),
            call("[1, 2, 3, 4, 5]"),
            call("[]"),
            call("null"),
            call('"1, 2, 3, 4"'),
            call('[1, 2, 3, "4"]'),
            call("[1, 2, 3, null]"),
            call("[1, 2, 3, true]"),
            call("[false, 2, 3, 4]"),
            call("[[1, 2, 3, 4]]"),
            call("[1, 2, 3, [4]]"),
            call("[NaN, 2, 3, 4]"),
            call("[1, Infinity, 3, 4]"),
            call("[1, 2, -Infinity, 4]"),
            call("[1, 2, 3, 1e999]"),
            call("[1, 2, 3, 1e10]"),
            call(f"[1, 2, 3, {10**4000}]"),
            call(f"[1, 2, 3, -{10**4000}]"),
            call('{"x1": 1}'),
            '<tool_call>{"name": "image_zoom_in_tool"}</tool_call>',
            '<tool_call>{"name": "image_zoom_in_tool", "arguments": [1, 2, 3, 4]}</tool_call>',
            '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox": [1, 2, 3, 4]}}</tool_call>',
            '<tool_call>{"name": "image_zoom_in_tool", "arguments": "{\\"bbox_2d\\": [1, 2, 3, 4]}"}</tool_call>',
        ],
    ),
    (Fault.EMPTY_ANSWER, ["<answer></answer>", "<answer> \n\t</answer>", "<answer>\u3000</answer>"]),
]


@pytest.mark.parametrize(
    ("fault", "text"),
    [pytest.param(fault, text, id=f"{fault.name.lower()} {i}") for fault, texts in FAULTS for i, text in enumerate(texts)],
)
def test_a_turn_that_cannot_be_acted_on_says_why(fault, text):
    assert read(text) == Malformed(fault)


def test_every_fault_has_a_case_but_the_two_that_only_the_crop_loop_can_see():
    assert set(Fault) - {fault for fault, _ in FAULTS} == {Fault.OUTSIDE, Fault.NO_CROPS_LEFT}


def test_what_a_model_is_told_about_a_fault_holds_no_tag_that_it_could_mistake_for_an_action():
    for fault in Fault:
        assert read(error_content(fault)) == Malformed(Fault.NO_ACTION)


def test_a_call_or_answer_inside_a_thought_is_neither():
    thought = "<think>I could write " + call("[1, 2, 3, 4]") + " or <answer>3</answer>.</think>"
    assert read(thought) == Malformed(Fault.NO_ACTION)
    assert read(thought + "<answer>7</answer>") == Answer("7")
    assert read(thought + call("[5, 6, 7, 8]")) == Call((5, 6, 7, 8))
    assert read(thought + "then" + thought + "<answer>7</answer>") == Answer("7")


def test_what_stands_around_a_thought_does_not_join_into_a_tag():
    assert read("<ans<think>hm</think>wer>7</answer>") == Malformed(Fault.NO_ACTION)
    assert read("<th<think></think>ink><answer>7</answer>") == Answer("7")


@PROPERTY
@given(st.tuples(*[st.integers(-9999, 9999)] * 4))
def test_a_written_call_reads_back_as_itself(box):
    assert read(call_text(tuple(float(value) for value in box))) == Call(box)


@PROPERTY
@given(st.tuples(*[st.floats(-1e9, 1e9)] * 4), st.sampled_from([None, 1, 4]), st.text(max_size=20).filter(lambda text: "<" not in text))
def test_a_call_reads_back_whatever_its_layout_and_label(box, indent, label):
    body = json.dumps({"name": "image_zoom_in_tool", "arguments": {"label": label, "bbox_2d": box}}, indent=indent)
    assert read(f"<tool_call>{body}</tool_call>") == Call(box)


@PROPERTY
@given(st.text(max_size=30).filter(lambda text: "<" not in text and text.strip()))
def test_a_written_answer_reads_back_as_itself(text):
    assert read(answer_text(text)) == Answer(text.strip())


PIECES = st.one_of(
    st.sampled_from(
        [
            "<tool_call>",
            "</tool_call>",
            "<answer>",
            "</answer>",
            "<think>",
            "</think>",
            "<|im_end|>",
            "<|image_pad|>",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "'",
            "\\",
            "\\u",
            "\ud800",
            "\ufeff",
            "\x00",
            "NaN",
            "Infinity",
            "-",
            "true",
            "null",
            '"name"',
            '"image_zoom_in_tool"',
            '"arguments"',
            '"bbox_2d"',
            '"name":"image_zoom_in_tool","arguments":',
            '{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[',
            "]}}",
            "1e999",
            "9" * 5000,
            "\u0664",
            "\u2212",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)


@settings(PROPERTY, max_examples=500)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join)))
def test_no_text_can_make_the_parser_raise_or_return_anything_else(text):
    action = read(text)
    assert isinstance(action, Call | Answer | Malformed)
    if isinstance(action, Call):
        assert len(action.box_view) == 4 and all(type(value) is float and abs(value) <= 1e9 for value in action.box_view)
    if isinstance(action, Answer):
        assert action.text and action.text == action.text.strip()


@PROPERTY
@given(st.lists(PIECES, max_size=15).map("".join))
def test_a_call_body_of_any_text_is_a_call_or_malformed_but_never_an_answer(body):
    assert not isinstance(read(f"<tool_call>{body}</tool_call>"), Answer)


def test_text_that_would_be_a_command_is_read_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    assert read(call(f"[open({str(trace)!r}, 'w').fileno(), 2, 3, 4]")) == Malformed(Fault.NOT_JSON)
    assert not trace.exists()


@PROPERTY
@given(st.text().filter(lambda text: "<" not in text))
def test_text_without_tags_is_no_action(text):
    assert read(text) == Malformed(Fault.NO_ACTION)


BOX_CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'


@pytest.mark.parametrize("opening", ["<think>", ""], ids=["opened by the model", "opened by the template"])
@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("They want <answer> tags.</think><answer>A</answer>", Answer("A")),
        ("Maybe <answer>B</answer>? No.</think><answer>A</answer>", Answer("A")),
        ("I could use <tool_call>.</think><answer>A</answer>", Answer("A")),
        (f"Maybe <answer>B</answer>? Look.</think>{BOX_CALL}", Call((0, 0, 500, 500))),
        (f"I will write {BOX_CALL}</think>{BOX_CALL}", Call((0, 0, 500, 500))),
        ("I answer <answer>A</answer></think>", Malformed(Fault.NO_ACTION)),
    ],
)
def test_what_stands_before_the_end_of_a_thought_is_thought_whoever_opened_it(text, action, opening):
    assert parse(opening + text, read_dialect("qwen3_vl")) == action


def test_half_of_a_surrogate_pair_in_a_question_is_shown_as_a_replacement_character():
    shown = user_text(read_dialect("qwen2_5_vl"), "What does \ud83d say?", (("A", "\udc00"), ("B", "\ud83d\ude00")))
    assert shown == f"{CROP_CONTENT}What does \ufffd say?\nA. \ufffd\nB. \U0001f600\nAnswer with the letter of one option."
