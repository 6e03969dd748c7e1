"""The information gap: what the model is not allowed to see.

A view is the whole image under a token budget; a crop is always cut from the original. Both use the model family's own
resize rule, with a minimum of ONE merged token: the family's default minimum (64 tokens for Qwen3-VL) would silently enlarge
a small view and close the gap.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from focus.data.boxes import Box, Size
from focus.data.original import Decoded, Original
from focus.data.sample import Sample
from focus.runtime.files import atomic_write

FLOOR_TOKENS = 16


@dataclass(frozen=True)
class View:
    """What the policy sees of the whole image."""

    image: Image.Image
    tokens: int  # merged visual tokens
    original_size: Size

    @property
    def size(self) -> Size:
        """Width and height of the view, in pixels."""
        return self.image.size


def fit(size: Size, max_tokens: int, token_px: int, min_tokens: int = 1) -> Size:
    """Width and height that an image of `size` takes under a budget: multiples of `token_px`, at least `min_tokens`.

    Raises ValueError where the image is too narrow for the budget: no rounding can keep its shape.
    """
    width, height = size
    if max(width, height) > 200 * min(width, height):
        raise ValueError(f"an image of {width}x{height} px is more than 200 times longer than wide; the model family refuses it")
    fitted_height, fitted_width = smart_resize(height, width, token_px, min_tokens * token_px**2, max_tokens * token_px**2)
    if fitted_width * fitted_height > max_tokens * token_px**2:
        raise ValueError(
            f"an image of {width}x{height} px does not fit into {max_tokens} visual tokens (a strip of one token's height "
            f"needs {fitted_width * fitted_height // token_px**2}); raise gap.view_tokens or rollout.crop_tokens"
        )
    return fitted_width, fitted_height


def resize_to_budget(original: Original, max_tokens: int, token_px: int, min_tokens: int = 1) -> View:
    """The view of an image under a budget in merged visual tokens. It never exceeds the budget, nor grows without being told to.

    Raises ValueError if no view fits (see `fit`) or the image can't be decoded.
    """
    return _shown(original, fit(original.size, max_tokens, token_px, min_tokens), token_px)


def _shown(original: Original, size: Size, token_px: int) -> View:
    return View(original.reduced(size), size[0] * size[1] // token_px**2, original.size)


def cut(
    source: Original, box_px: Box, original_size: Size, max_tokens: int, token_px: int, fixed: bool = False, min_tokens: int = 1
) -> View:
    """A crop at native pixels, rounded to whole tokens; larger than its own budget, it shrinks to it.

    `fixed` brings every crop to about `max_tokens`, smaller ones enlarged: growth then has no price, and no gain (claim C4).

    `box_px` holds whole pixels of the original, as `boxes.settle` yields them; where the source is not of the original's size
    (gap=off with a resized view) it is scaled to it. The number of tokens grows with the box's area: growth has its real price.
    A model may ask for any box, so none is refused: a crop longer than min(200, `max_tokens`) times its width is squeezed along
    its long side.
    """
    (width, height), (w, h) = source.size, original_size  # multiplied before divided: whole pixels stay exact, none lies outside
    crop = source.region(
        (
            math.floor(box_px[0] * width / w),
            math.floor(box_px[1] * height / h),
            math.ceil(box_px[2] * width / w),
            math.ceil(box_px[3] * height / h),
        )
    )
    longest = min(200, max_tokens) * min(crop.size)
    width, height = min(crop.width, longest), min(crop.height, longest)
    if fixed:
        scale = token_px * math.sqrt(max_tokens / (width * height))
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return _shown(Decoded(crop), _squeezed((width, height), max_tokens, token_px, min_tokens), token_px)


def _squeezed(size: Size, max_tokens: int, token_px: int, min_tokens: int) -> Size:
    """`fit` for a crop: where no rounding keeps its shape within a budget of a few tokens, the shape gives way."""
    width, height = size
    try:
        return fit(size, max_tokens, token_px, min_tokens)
    except ValueError:
        across = min(max_tokens, max(1, round(math.sqrt(max_tokens * width / height))))
        if across * (max_tokens // across) < min_tokens:
            across = max_tokens if width >= height else 1
        return across * token_px, max_tokens // across * token_px


class Mode(StrEnum):
    """How much of the image the policy is shown."""

    OFF = "off"  # the paper's baseline: the view is as sharp as what crops are cut from
    FIXED = "fixed"  # one budget for all samples
    CALIBRATED = "calibrated"  # per sample, by offline resolution selection (E2)


@dataclass(frozen=True)
class Gap:
    """What each sample is shown.

    `view_tokens` is the budget of the view (with `off`: the most that the model takes), `min_tokens` its least size. `selected` maps
    sample ids to the budget that calibration chose; a sample without one was dropped by calibration and is not trained on.
    """

    mode: Mode
    view_tokens: int
    token_px: int
    selected: Mapping[str, int] = field(default_factory=dict)
    min_tokens: int = 1

    def keeps(self, sample_id: str) -> bool:
        """Whether this sample is trained on."""
        return self.mode is not Mode.CALIBRATED or sample_id in self.selected

    def view_of(self, sample: Sample, original: Original) -> tuple[View, Original]:
        """The view of a sample, and the image that its crops are cut from.

        That is the original, except with `off`, where both have one resolution by definition. Raises ValueError like `look`.
        """
        budget = self.selected[sample.id] if self.mode is Mode.CALIBRATED else self.view_tokens
        view = resize_to_budget(original, budget, self.token_px, self.min_tokens)
        return view, Decoded(view.image) if self.mode is Mode.OFF else original


def ladder(size: Size, token_px: int, floor_tokens: int = FLOOR_TOKENS) -> list[int]:
    """Budgets of E2 in merged tokens, from the native one down: the pixels halve at every level until the floor.

    The first entry is the native size itself (level 0); the last is not below `floor_tokens`, nor so small that the shape is lost.
    """
    width, height = fit(size, 16384, token_px)
    native = width * height // token_px**2
    floor = max(floor_tokens, math.ceil(max(size) / min(size)))  # a strip keeps a token of height
    budgets = [native]
    while budgets[-1] // 2 >= floor:
        budgets.append(budgets[-1] // 2)
    return budgets


class Search(StrEnum):
    """How calibration looks for the level of E2."""

    LADDER = "ladder"  # exact: from sharp to coarse, until the answer has left native
    EXHAUSTIVE = "exhaustive"  # exact: every level of every question, the reference
    BISECTION = "bisection"  # approximate: takes for granted that an answer which has left native stays away


def majority(meanings: Sequence[str | None]) -> str | None:
    """What most of some answers mean; ties go to the first."""
    return Counter(meanings).most_common(1)[0][0]


def diverges(meanings: Sequence[str | None], native: Sequence[str | None], agree_below: float) -> bool:
    """Whether a level's answers leave the native ones: fewer than `agree_below` of them mean what the native majority means.

    Both hold what answers mean (`answers.canonical`), not how they are worded: `B. red` and `(B)` are the same choice. One answer on each
    side is the paper's rule.
    """
    said = majority(native)
    return sum(meaning == said for meaning in meanings) / len(meanings) < agree_below


def select_level(levels: Sequence[Sequence[str | None]], agree_below: float = 0.5) -> int | None:
    """E2: the first level k >= 1 whose answers leave those of level 0, the native view; None if none does.

    `levels[k]` holds what the answers at level k mean, from sharp to coarse. An answered-at-native-or-not filter is the caller's.
    """
    return next((k for k in range(1, len(levels)) if diverges(levels[k], levels[0], agree_below)), None)


def write_levels(path: Path, levels: Mapping[str, int], identity: str) -> None:
    """Write chosen budgets (sample id, view tokens) as parquet; the file appears whole or not at all."""
    table = pa.table({"sample": list(levels), "view_tokens": pa.array(levels.values(), pa.int32())})
    table = table.replace_schema_metadata({"identity": identity})
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def read_levels(path: Path) -> dict[str, int]:
    """Chosen budgets by sample id. Raises ValueError for a file that calibration did not write."""
    try:
        table = pq.read_table(path)
        return dict(zip(table["sample"].to_pylist(), table["view_tokens"].to_pylist(), strict=True))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ValueError(f"gap.table {path} is not a table of chosen budgets ({error}); write it with make calibrate") from error


def levels_identity(path: Path) -> str | None:
    """The hash of policy, data and ladder that a table was made for; None if there is no readable table."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"identity", b"").decode()
    except (OSError, pa.ArrowInvalid):
        return None
