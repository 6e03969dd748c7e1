"""How a conversation goes on after a turn of the model: the course of its dialect.

- `free`: the model calls or answers in every turn, as often as the limits allow.
- `two_turns`: the first turn calls, the second answers, whatever the first one said (ERGO).
- `two_roles`: the first conversation lists boxes, a second one begins anew with their crops and answers (P2R).
"""

from collections.abc import Callable
from dataclasses import dataclass

from focus.data.boxes import Box, Size, settle, to_original
from focus.model.dialect import Dialect
from focus.model.prompts import Answer, Call, Fault, Malformed, error_content, listed_calls, parse
from focus.rollout.engine import Completion, Model
from focus.rollout.trajectory import Action, Crop, Status, Trajectory

MOST_PADDING_PX = 600.0  # of the original: what Pixel-Reasoner and P2R allow


@dataclass(frozen=True)
class ReadTurn:
    """A completion's text and action, and the trajectory's status after it.

    `error`: the tool's reply if it delivers no crop.
    """

    text: str
    action: Action
    status: Status
    error: str | None = None


# Arguments: the model, the trajectory before the turn, the completion, the whole text of the turn, and the crops that are left
Course = Callable[[Model, Trajectory, Completion, str, int], list[ReadTurn]]


def read_turn(policy: Model, t: Trajectory, completion: Completion, max_crops: int) -> list[ReadTurn]:
    """What a completion does, as turns: one, or one for every box that it lists.

    `max_crops` is the limit of the conversation.
    """
    prefill = t.prefill if not t.turns else ""
    text = prefill + (policy.tokenizer.decode(completion.ids) if completion.text is None else completion.text)
    if completion.refused:
        return [ReadTurn(text, Malformed(Fault.NO_ACTION), Status.REFUSED)]
    left = min(max_crops, policy.dialect.max_crops or max_crops) - len(t.turns)
    return COURSES[policy.dialect.course](policy, t, completion, text, left)


def _free(policy: Model, t: Trajectory, completion: Completion, text: str, left: int) -> list[ReadTurn]:
    """A box outside the image is an invalid call, and the tool replies with an error."""
    dialect, action = policy.dialect, parse(text, policy.dialect)
    if isinstance(action, Answer):
        return [ReadTurn(text, action, Status.ANSWERED)]
    if isinstance(action, Call):
        if left <= 0:
            return [ReadTurn(text, Malformed(Fault.NO_CROPS_LEFT), Status.OUT_OF_TURNS)]
        box_px = _resolve_box(policy, t, action)
        if box_px is None:
            return [ReadTurn(text, Malformed(Fault.OUTSIDE), Status.OPEN, error_content(Fault.OUTSIDE))]
        return [ReadTurn(text, Crop(action.box_view, box_px), Status.OPEN)]
    if not completion.stopped:
        return [ReadTurn(text, action, Status.OUT_OF_TOKENS)]
    if dialect.call[0] in text and left > 0:  # a malformed call gets an error, so that the model can correct it
        declined = action.fault is Fault.UNKNOWN_TOOL and any(tool in text for tool in dialect.declined_tools)
        return [ReadTurn(text, action, Status.OPEN, error_content() if declined else error_content(action.fault))]
    return [ReadTurn(text, action, Status.MALFORMED)]


def _two_turns(policy: Model, t: Trajectory, completion: Completion, text: str, left: int) -> list[ReadTurn]:
    """A first turn that is neither call nor answer gets the error reply too: the second turn is asked in any case."""
    [read] = _free(policy, t, completion, text, left)
    if t.tool_offered and not t.turns and isinstance(read.action, Malformed) and read.status is not Status.OPEN:
        return [ReadTurn(text, read.action, Status.OPEN, error_content(read.action.fault))]
    return [read]


def _two_roles(policy: Model, t: Trajectory, completion: Completion, text: str, left: int) -> list[ReadTurn]:
    """Every listed box becomes a turn of its own, the first with the whole text and the others empty.

    So arms of the probe replace each crop as they replace any. Without a box the second role sees the view alone.
    """
    if not perceives(policy.dialect, t):
        return _free(policy, t, completion, text, left)
    boxes = [(call.box_view, _resolve_box(policy, t, call)) for call in listed_calls(text, policy.dialect)]
    crops = [Crop(box_view, box_px) for box_view, box_px in boxes if box_px is not None][: max(0, left)]
    if not crops:
        fault = Fault.OUTSIDE if boxes else Fault.NO_ACTION
        return [ReadTurn(text, Malformed(fault), Status.OPEN, error_content(fault))]
    return [ReadTurn("" if number else text, crop, Status.OPEN) for number, crop in enumerate(crops)]


def perceives(dialect: Dialect, t: Trajectory) -> bool:
    """Whether the next turn of an agent with two roles is the first role's."""
    return t.tool_offered and not t.turns and t.prefill != dialect.answer[0]


COURSES: dict[str, Course] = {"free": _free, "two_turns": _two_turns, "two_roles": _two_roles}


def _resolve_box(policy: Model, t: Trajectory, call: Call) -> Box | None:
    """The box of a call in pixels of the original, with the dialect's padding.

    None if it is outside, or names an image that was not shown.
    """
    if not 0 <= call.source < len(t.shown):
        return None
    dialect, (region, size) = policy.dialect, t.shown[call.source]
    left, top, right, bottom = region
    x1, y1, x2, y2 = to_original(call.box_view, dialect.frame, size, (right - left, bottom - top))
    box_px = settle((left + x1, top + y1, left + x2, top + y2), t.sample.size, policy.token_px)
    return _padded(box_px, region, dialect.padding, t.sample.size) if box_px and dialect.padding else box_px


def _padded(box_px: Box, region: Box, share: float, size: Size) -> Box | None:
    """The box, grown on every side by a share of the region that was cut, inside the image."""
    across, down = (min(MOST_PADDING_PX, share * side) for side in (region[2] - region[0], region[3] - region[1]))
    return settle((box_px[0] - across, box_px[1] - down, box_px[2] + across, box_px[3] + down), size, 1)
