"""Hostile texts through everything that reads what a model says: parse of every dialect, the rules of extraction, and the whole loop.

`python -m experiments.faults.texts [TEXTS] [CONVERSATIONS]` writes texts.json beside this file. It ends at the first failure and prints
the text. Every text follows from its number, so a failure can be had again.
"""

import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from focus.data.boxes import Frame
from focus.data.images.original import Decoded
from focus.data.sample import Sample
from focus.gap import Gap, Mode
from focus.grading.answers import grade
from focus.grading.extraction import MODES, extract, read_answer
from focus.model.dialect import Dialect, dialect_names, read_dialect
from focus.model.prompts import Answer, Call, Malformed, parse
from focus.rewards import Accuracy, Format, Tool, score
from focus.rollout.engine import Completion, Request, Requests, Sampling
from focus.rollout.loop import RolloutLimits, begin, play
from focus.rollout.served import Served
from focus.rollout.trajectory import Crop, Status, Trajectory

KEPT = Path(__file__).with_name("texts.json")
# No fragment holds the truth: whatever is paid for an answer was not earned
OPTIONS = (("A", "rubber"), ("B", "cotton"), ("Q", "quokka"))
ACCEPTED = {"letter": ("Q", "quokka"), "exact": ("quokka",), "number": ("4711",), "judge": ("quokka",)}
TAGS = ["<answer>", "</answer>", "<tool_call>", "</tool_call>", "<grounding>", "</grounding>", "<think>", "</think>", "<|im_end|>"]
NUMBERS = [
    "0",
    "-1",
    "1e308",
    "1e999",
    "-1e9",
    "NaN",
    "Infinity",
    "-Infinity",
    "9" * 400,
    "0.5",
    "true",
    "null",
    '"12"',
    "[]",
    "{}",
    "1000",
    "448",
]
WORDS = [
    "rubber",
    "A",
    "B",
    "(A)",
    "B.",
    "\\boxed{",
    "}",
    "{",
    "[",
    "]",
    ",",
    ":",
    '"',
    "'",
    "\\",
    "the answer is ",
    "or",
    "yes",
    "\n",
    " ",
    "\t",
    "1,000",
]
STRANGE = [
    "\x00",
    "\ud83d",
    "\udc00",
    "\u0301",
    "\u202e",
    "\ufeff",
    "\ufdfa",
    "\u2028",
    "\xad",
    "\U0001f600",
    "é",
    "数",
    "٣",
    "½",
    "²",
    "<",
    ">",
    "&lt;",
    "%s",
]
NAMES = ['"image_zoom_in_tool"', '"rm"', "null", "7", '"image_zoom_in_tool\\u0000"']


def text_of(number: int) -> str:
    """The hostile text of this number: junk, a call with parts of the wrong kind, a sound turn that was damaged, or one thing repeated."""
    draw = random.Random(number)
    kind = draw.randrange(4)
    if number % 1000 == 0:  # more digits than Python makes a number of
        return f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": [{"9" * 5000}, 0, 1, 1]}}}}</tool_call>'
    if kind == 0:
        return "".join(draw.choice(draw.choice((TAGS, NUMBERS, WORDS, STRANGE))) for _ in range(draw.randrange(24)))
    if kind == 1:
        return _call(draw)
    if kind == 2:
        return _damaged(draw, "".join(draw.choice((_call, _answer, _thought))(draw) for _ in range(draw.randrange(1, 4))))
    return draw.choice(draw.choice((TAGS, NUMBERS, WORDS, STRANGE))) * draw.choice((2, 10, 100))


def _call(draw: random.Random) -> str:
    values = [
        draw.choice(NUMBERS) if draw.random() < 0.3 else str(draw.randrange(-50, 1100)) for _ in range(draw.choice((4, 4, 4, 3, 5, 0)))
    ]
    box = f"[{', '.join(values)}]"
    key = draw.choice(('"bbox_2d"', '"bbox_2d"', '"bbox_2d"', '"bbox"', '"bbox_2d": 1, "bbox_2d"'))
    source = draw.choice(("", f', "img_idx": {draw.choice(NUMBERS)}', ', "source": "observation_1"', ', "source": "observation_²"'))
    arguments = f"{{{key}: {draw.choice((box, box, box, draw.choice(NUMBERS)))}{source}}}"
    opening, closing = draw.choice((("<tool_call>", "</tool_call>"), ("<grounding>", "</grounding>")))
    call = arguments if opening == "<grounding>" else f'{{"name": {draw.choice(NAMES[:1] * 4 + NAMES)}, "arguments": {arguments}}}'
    return opening + call + closing


def _answer(draw: random.Random) -> str:
    return f"<answer>{''.join(draw.choice(draw.choice((WORDS, STRANGE, NUMBERS))) for _ in range(draw.randrange(4)))}</answer>"


def _thought(draw: random.Random) -> str:
    return draw.choice(("<think>", "")) + draw.choice((_call(draw), _answer(draw), "so")) + draw.choice(("</think>", ""))


def _damaged(draw: random.Random, text: str) -> str:
    for _ in range(draw.randrange(3)):
        i, j = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
        piece = draw.choice(draw.choice((TAGS, STRANGE, WORDS)))
        text = draw.choice((text[:i] + text[j:], text[:i] + piece + text[i:], text[:j] + text[i:], text[:i]))
    return text


def check_parse(text: str, dialect: Dialect) -> str:
    """What a text is to a dialect, by name. Raises AssertionError where that is nothing that the loop could act on."""
    action = parse(text, dialect)
    if isinstance(action, Call):
        assert len(action.box_view) == 4 and all(math.isfinite(value) and abs(value) <= 1e9 for value in action.box_view), action
        assert isinstance(action.source, int) and -1 <= action.source < 1000, action
    elif isinstance(action, Answer):
        assert action.text == action.text.strip() != "" and "<answer>" not in action.text and "</answer>" in text, action
    else:
        assert isinstance(action, Malformed), action
        return str(action.fault)
    return type(action).__name__.lower()


def check_extraction(text: str) -> None:
    """Raises AssertionError where a rule reads a text as what it does not hold, or a scorer pays for it."""
    for mode in MODES:
        key = extract(text, OPTIONS, mode)
        assert key in (None, "A", "B"), (mode, key)
        free = extract(text, (), mode)
        assert free is None or isinstance(free, str), (mode, free)
    for cut in (False, True):
        read = read_answer(text, None, cut, (), "strict")
        for scorer, accepted in ACCEPTED.items():
            assert grade(read, accepted, scorer, OPTIONS if scorer == "letter" else ()) == 0.0, (scorer, read)


def sound_call(draw: random.Random, dialect: Dialect) -> str:
    """A call that can be read, for a strange box: without area, turned, of a pixel, at an edge, far outside, of no crop that was shown."""
    side = {Frame.FRACTION: 1.0, Frame.PER_MILLE: 1000.0}.get(dialect.frame, 300.0)
    places = (0, 0, side, side, side / 2, side * draw.random(), side * draw.random(), side + 1e-9, -1e-9, -side, 1e9, side / 1000)
    arguments = {"bbox_2d": [draw.choice(places) for _ in range(4)]} | draw.choice(({}, {}, {}, {"img_idx": draw.randrange(3)}))
    body = {"name": dialect.tool, "arguments": arguments} if dialect.tool else arguments
    return dialect.call[0] + json.dumps(body) + dialect.call[1]


class Hostile:
    """An engine whose turns are hostile texts, told by the conversation's seed: junk, and calls for strange boxes."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def generate(self, requests: Requests, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        for request in requests:
            draw = random.Random(request.seed)
            text = text_of(draw.randrange(2**40)) if draw.random() < 0.4 else sound_call(draw, self.dialect)
            yield request, Completion((), (), draw.random() < 0.9, text)

    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        raise AssertionError("no term here weighs answers")

    def clear_cache(self) -> None:
        """Nothing is kept."""

    def sync_weights(self) -> None:
        """There are no weights."""


DIALECTS = {name: read_dialect(name) for name in dialect_names()}
SIZES = ((448, 336), (28, 28), (13, 39), (3, 200), (1000, 31), (57, 56))
REWARDS = [Accuracy(0.8), Format(0.2), Tool(1.2, gate="accuracy")]


def conversations_of(seed: int, count: int) -> list[Trajectory]:
    """Play `count` conversations about one blank image with hostile turns, under limits that follow from the seed."""
    draw = random.Random(seed)
    size, dialect = draw.choice(SIZES), DIALECTS[draw.choice(list(DIALECTS))]
    crop_tokens = draw.choice((1, 2, 3, 4, 5, 16, 64))
    limits = RolloutLimits(
        draw.randrange(4), crop_tokens, Sampling(1.0, 100), fixed_crops=draw.random() < 0.3, crop_min_tokens=draw.randint(1, crop_tokens)
    )
    scorer = draw.choice(sorted(ACCEPTED))
    options = OPTIONS if scorer == "letter" else ()
    sample = Sample(f"hostile/{seed}", "hostile", "test", None, *size, "What?", ACCEPTED[scorer], scorer, options)  # type: ignore[arg-type]
    model = Served(None, dialect)  # type: ignore[arg-type]  # nobody is asked: `Hostile` speaks
    view, source = Gap(Mode.FIXED, 256, model.token_px).view_of(sample, Decoded(Image.new("RGB", size)))
    return play(model, Hostile(dialect), begin(model, sample, view, source, [seed * 1000 + i for i in range(count)]), limits)


def check_conversations(played: Sequence[Trajectory]) -> None:
    """Raises AssertionError for a crop outside the image, a conversation that does not end, or a reward that was not earned."""
    totals = score(REWARDS, played)
    for t, paid in zip(played, zip(*(totals.raw[name] for name in ("accuracy", "format", "tool")), strict=True), strict=True):
        assert t.status is not Status.OPEN
        for turn in t.turns:
            if isinstance(turn.action, Crop):
                x1, y1, x2, y2 = turn.action.box_px
                assert 0 <= x1 < x2 <= t.sample.width and 0 <= y1 < y2 <= t.sample.height, turn.action
                assert all(value == int(value) for value in turn.action.box_px), turn.action
        accuracy, well_formed, _ = paid
        assert accuracy == 0.0, t.answer
        sound = all(isinstance(turn.action, Crop | Answer) for turn in t.turns) and t.status is Status.ANSWERED
        assert (well_formed == 0.0) == sound, t.status


LONG: dict[str, Callable[[int], str]] = {
    "answer tags": lambda n: "<answer>" * (n // 8),
    "thoughts": lambda n: "<think></think>" * (n // 15),
    "ends of thoughts": lambda n: "</think>" * (n // 8),
    "calls": lambda n: "<tool_call>" * (n // 11),
    "a deep list in a call": lambda n: "<tool_call>" + "[" * n,
    "a long number in a call": lambda n: (
        '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [' + "9" * n + "]}}</tool_call>"
    ),
    "boxes": lambda n: "\\boxed{" * (n // 7) + "}" * (n // 8),
    "spaces in an answer": lambda n: f"<answer>A{' ' * n}x</answer>",
    "letters": lambda n: "A " * (n // 2),
    "lines": lambda n: "\n" * n,
}


def growth() -> dict[str, float]:
    """How many times longer everything that reads a text takes for 400,000 characters than for 100,000: 4 is linear, 16 is quadratic."""

    def seconds(text: str) -> float:
        taken = []
        for _ in range(3):
            start = time.process_time()
            for dialect in DIALECTS.values():
                parse(text, dialect)
            for mode in MODES:
                extract(text, OPTIONS, mode)
            taken.append(time.process_time() - start)
        return min(taken)

    return {name: round(seconds(made(400_000)) / max(seconds(made(100_000)), 1e-3), 1) for name, made in LONG.items()}


def _alike(seen: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """The counts, dialects that have the same ones together."""
    together: dict[str, list[str]] = {}
    for name, count in seen.items():
        together.setdefault(json.dumps(dict(count.most_common())), []).append(name)
    return {", ".join(names): json.loads(count) for count, names in together.items()}


def main(texts: int, conversations: int) -> None:
    """Try everything and write texts.json."""
    start = time.process_time()
    seen: dict[str, Counter[str]] = {name: Counter() for name in DIALECTS}
    for number in range(texts):
        text = text_of(number)
        try:
            for name, dialect in DIALECTS.items():
                seen[name][check_parse(text, dialect)] += 1
            check_extraction(text)
        except BaseException:
            print(f"text {number}: {text!r}"[:500], file=sys.stderr)
            raise
    parsed_s, start = time.process_time() - start, time.process_time()
    ends: Counter[str] = Counter()
    crops, group = 0, 16
    for seed in range(math.ceil(conversations / group)):
        try:
            played = conversations_of(seed, group)
            check_conversations(played)
        except BaseException:
            print(f"conversations {seed}", file=sys.stderr)
            raise
        ends.update(str(t.status) for t in played)
        crops += sum(len(t.crops) for t in played)
    found = {
        "texts": texts,
        "texts_cpu_s": round(parsed_s),
        "read_as": _alike(seen),
        "conversations": ends.total(),
        "conversations_cpu_s": round(time.process_time() - start),
        "ended": dict(ends.most_common()),
        "crops": crops,
        "time_at_4_times_the_length": growth(),
    }
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *("1000000", "30000")[len(sys.argv) - 1 :]]))
