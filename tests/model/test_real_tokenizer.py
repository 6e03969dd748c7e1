"""Qwen's real vocabulary of 151,643 ranks: transcripts have the ids that it and the models' own chat templates give.

The ranks ship in a package (MIT), as does tiktoken, the other reader of them. Expected ids come from those two and from hand, never from
our own renderer.
"""

import pytest
import tiktoken
import torch

from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import Gap, Mode
from focus.model.dialect import read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, Answer, Call, encode, parse
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play, with_prefill
from tests.support.policies import random_qwen2_5_vl, random_qwen3_vl
from tests.support.qwen_vocabulary import FIRST_SPECIAL, QWEN3, SPECIAL, TEMPLATES, ranks, tokenizer_of
from tests.support.scripted import Scripted, call, playing


@pytest.fixture(params=TEMPLATES)
def real(request) -> PolicyModel:
    """A policy that is spoken to with the real vocabulary; its weights are never asked."""
    policy = {"qwen2_5_vl": random_qwen2_5_vl, "qwen3_vl": random_qwen3_vl}[request.param]()
    policy.tokenizer, policy.dialect = tokenizer_of(request.param), read_dialect(request.param)
    return policy


def laid_out(policy: PolicyModel, messages: list[dict], images: list[int], then: bool = False) -> list[int]:
    """Ids by the family's template and its tokenizer; the n-th image pad stands `images[n]` times."""
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=then)
    counts, ids = iter(images), []
    for i in policy.tokenizer(text, add_special_tokens=False)["input_ids"]:
        ids += [i] * (next(counts) if i == 151655 else 1)
    return ids


def test_special_tokens_have_qwens_ids():
    made = tokenizer_of("qwen3_vl")
    assert [made.convert_tokens_to_ids(token) for token in SPECIAL + QWEN3] == [*range(FIRST_SPECIAL, FIRST_SPECIAL + 26)]
    assert made.convert_tokens_to_ids("<|image_pad|>") == 151655 and made.convert_tokens_to_ids("</think>") == 151668


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "You are a helpful assistant.",
        'call {"name":"image_zoom_in_tool","arguments":{"bbox_2d":[12,340,567,890]}}',
        "Straße, 東京都, вывеска, لافتة ✓ 🚦",
        "a  b\t c\n\n  d 1234567890 3.14",
        "<answer>B</answer>",
        "don't I'LL we've",
    ],
)
def test_the_rebuilt_vocabulary_reads_like_tiktoken(text):
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    other = tiktoken.Encoding("qwen", pat_str=pattern, mergeable_ranks=ranks(), special_tokens={})
    made = tokenizer_of("qwen2_5_vl")
    assert made.encode(text, add_special_tokens=False) == other.encode(text)
    assert made.decode(made.encode(text, add_special_tokens=False)) == text


def test_known_words_have_their_known_ids():
    made = tokenizer_of("qwen2_5_vl")
    assert made.encode("Hello, world!") == [9707, 11, 1879, 0]
    assert made.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n") == [
        151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198,
    ]  # fmt: skip


def test_a_conversation_has_the_ids_that_the_familys_own_template_gives(real):
    """A call that is answered by a crop, one that is answered by an error, an answer."""
    first, outside, answer = call(20, 30, 60, 70), call(2000, 2000, 2100, 2100), "<answer>42</answer>"
    t = playing(real, first, outside, f"{answer}<|im_end|>", max_crops=2)
    reply = "tool" if real.dialect.name == "qwen3_vl" else "user"

    def replied(*parts: dict) -> list[dict]:
        around = [{"type": "text", "text": "<tool_response>\n"}, {"type": "text", "text": "\n</tool_response>"}]
        return [*parts] if reply == "tool" else [around[0], *parts, around[1]]

    told = {"type": "text", "text": "Error: the box is outside the image. No image."}
    messages = [
        {"role": "system", "content": real.dialect.system},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": t.sample.question}]},
        {"role": "assistant", "content": first},
        {"role": reply, "content": replied({"type": "image"})},
        {"role": "assistant", "content": outside},
        {"role": reply, "content": replied(told)},
        {"role": "assistant", "content": answer},
    ]
    expected = laid_out(real, messages, [t.view.tokens, t.turns[0].observation.crop.tokens])
    assert [*t.ids, 198] == expected  # the template goes on with a line break, which nobody samples
    assert t.ids[:5] == [151644, 8948, 198, 2610, 525]
    assert list(t.prompt_ids)[-3:] == [151644, 77091, 198]


def test_the_mask_covers_what_was_sampled_and_nothing_else(real):
    first, answer = call(20, 30, 60, 70), "<answer>42</answer><|im_end|>"
    t = playing(real, first, answer)
    sampled = [i for i, mine in zip(t.ids, t.sampled_mask, strict=True) if mine]
    assert real.tokenizer.decode(sampled) == first + answer
    assert sampled == [i for text in (first, answer) for i in real.tokenizer.encode(text, add_special_tokens=False)]


def test_turns_stop_at_all_three_stops_and_vision_is_never_sampled(real):
    assert set(real.stop_ids) == {151658, 151645, 151643}
    assert set(real.banned_ids) == {151652, 151653, 151654, 151655, 151656}


def test_an_opening_that_is_put_into_its_mouth_is_never_encoded_again(real):
    """`>A` is one token of this vocabulary, but what was opened with `>` goes on with `A`: the ids stay those that were read and drawn."""
    opening = encode(real.tokenizer, ANSWER_OPEN)
    whole = real.tokenizer.encode(f"{ANSWER_OPEN}A</answer>", add_special_tokens=False)
    assert whole[: len(opening)] != opening
    scene = Scene(DIFFICULTY[1], "train", 0)
    sample = scene.sample()
    view, source = Gap(Mode.FIXED, 16, real.token_px).view_of(sample, scene.open())
    [before] = begin(real, sample, view, source, [0])
    asked = with_prefill(real, before, ANSWER_OPEN)
    [t] = play(real, Scripted(real, "A</answer><|im_end|>"), [asked], RolloutLimits(1, 64, Sampling(1.0, 40)))
    said = real.tokenizer.encode("A</answer><|im_end|>", add_special_tokens=False)
    assert t.ids == [*before.prompt_ids, *opening, *said] and t.answer == "A"
    assert [i for i, mine in zip(t.ids, t.sampled_mask, strict=True) if mine] == said


@pytest.mark.parametrize(
    "text", [call(1, 2, 3, 4), "<think>it is small</think>" + call(0, 0, 1000, 1000), "<answer>the 3rd</answer><|im_end|>"]
)
def test_what_is_decoded_is_understood(text, real):
    ids = real.tokenizer.encode(text, add_special_tokens=False)
    spoken = parse(real.tokenizer.decode(ids), real.dialect)
    assert isinstance(spoken, Call if "tool_call" in text else Answer)


def test_a_random_policy_of_the_real_vocabulary_plays_and_samples_no_vision(real):
    """config.json says 151,936 words, the tokenizer knows fewer: the rest are rows of padding, which decode to nothing."""
    torch.manual_seed(0)
    width = real.unwrapped.config.get_text_config().hidden_size
    for part in (real.backbone.language_model.embed_tokens, real.unwrapped.lm_head):
        part.weight = torch.nn.Parameter(torch.randn(151936, width) * 0.1)
    real.unwrapped.config.get_text_config().vocab_size, real.unwrapped.config.image_token_id = 151936, 151655
    scene = Scene(DIFFICULTY[1], "train", 0)
    sample = scene.sample()
    view, source = Gap(Mode.FIXED, 16, real.token_px).view_of(sample, scene.open())
    played = play(real, KVEngine(real), begin(real, sample, view, source, range(8)), RolloutLimits(1, 64, Sampling(1.0, 30)))
    assert real.tokenizer.decode([151900]) == ""
    drawn = {i for t in played for turn in t.turns for i in turn.ids}
    assert len(drawn) > 100 and not drawn & set(real.banned_ids)
