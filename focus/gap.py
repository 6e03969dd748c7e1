"""The information gap: the view is coarser than the original that crops are cut from.

A view is the whole image under a token budget; a crop is always cut from the original. Both use the
resize rule of the model family, but with a minimum of ONE merged token: the family's default
minimum (64 tokens for Qwen3-VL) would silently enlarge a small view and close the gap.
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
from focus.data.images.original import Decoded, Original
from focus.data.sample import Sample
from focus.runtime.files import atomic_write

FLOOR_TOKENS = 16  # smallest budget of `ladder`, in merged visual tokens


@dataclass(frozen=True)
class View:
    """An image as the policy sees it: the whole image under a budget, or a crop."""

    image: Image.Image
    tokens: int  # merged visual tokens
    original_size: Size

    @property
    def size(self) -> Size:
        """Width and height of the view, in pixels."""
        return self.image.size


def fit(size: Size, max_tokens: int, token_px: int, min_tokens: int = 1) -> Size:
    """Width and height (px) of an image of `size` resized to a budget in merged visual tokens.

    Both are multiples of `token_px`, and the area has `min_tokens` to `max_tokens` tokens. Raises
    ValueError for an image whose shape does not fit: more than 200 times longer than wide, or too
    narrow for the budget.
    """
    width, height = size
    if max(width, height) > 200 * min(width, height):
        raise ValueError(f"an image of {width}x{height} px is more than 200 times longer than wide, which the model family does not allow")
    fitted_height, fitted_width = smart_resize(height, width, token_px, min_tokens * token_px**2, max_tokens * token_px**2)
    if fitted_width * fitted_height > max_tokens * token_px**2:
        raise ValueError(
            f"an image of {width}x{height} px does not fit into {max_tokens} visual tokens (a strip of one token's height "
            f"needs {fitted_width * fitted_height // token_px**2}); raise gap.view_tokens or rollout.crop_tokens"
        )
    return fitted_width, fitted_height


def resize_to_budget(original: Original, max_tokens: int, token_px: int, min_tokens: int = 1) -> View:
    """The view of an image under a budget in merged visual tokens.

    It is enlarged only to reach `min_tokens`.

    Raises ValueError if no view fits (see `fit`) or the image can't be decoded.
    """
    return _resized(original, fit(original.size, max_tokens, token_px, min_tokens), token_px)


def _resized(original: Original, size: Size, token_px: int) -> View:
    return View(original.reduced(size), size[0] * size[1] // token_px**2, original.size)


def cut(
    source: Original, box_px: Box, original_size: Size, max_tokens: int, token_px: int, fixed: bool = False, min_tokens: int = 1
) -> View:
    """A crop at native resolution, with sides rounded to whole tokens.

    A crop above `max_tokens` is reduced to it.

    `box_px` holds whole pixels of the original, as `boxes.settle` returns them. If the source has
    another size than the original (gap=off with a resized view), the box is scaled to the source.

    The number of tokens grows with the area of the box. With `fixed` every crop has about
    `max_tokens`, whatever its area (claim C4).

    Any box is accepted. A crop longer than min(200, `max_tokens`) times its width is squeezed along
    its long side.
    """
    (width, height), (w, h) = source.size, original_size  # multiply before dividing, so that whole pixels stay exact and inside
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
    return _resized(Decoded(crop), _squeezed((width, height), max_tokens, token_px, min_tokens), token_px)


def _squeezed(size: Size, max_tokens: int, token_px: int, min_tokens: int) -> Size:
    """`fit` for a crop. If a budget of a few tokens can't keep the shape, the shape changes."""
    width, height = size
    try:
        return fit(size, max_tokens, token_px, min_tokens)
    except ValueError:
        across = min(max_tokens, max(1, round(math.sqrt(max_tokens * width / height))))
        if across * (max_tokens // across) < min_tokens:
            across = max_tokens if width >= height else 1
        return across * token_px, max_tokens // across * token_px


class Mode(StrEnum):
    """How the budget of the view is chosen."""

    OFF = "off"  # the paper's baseline: the view is as sharp as what crops are cut from
    FIXED = "fixed"  # one budget for all samples
    CALIBRATED = "calibrated"  # per sample, by offline resolution selection (E2)
    READER = "reader"  # per sample, the largest view in which a reader no longer reads the answer (make questions)
    ADAPTIVE = "adaptive"  # one budget for all samples that follows the policy's success


@dataclass(frozen=True)
class Gap:
    """The view budget of every sample, in merged visual tokens.

    `view_tokens` is the budget (with `off`: the largest that the model takes), `min_tokens` the
    minimum. With `calibrated`, `selected` maps sample ids to budgets. Calibration dropped the
    samples that are not in it, and they are not trained on. With `reader`, a sample brings its
    budget (`critical_tokens`), and one without it is not trained on. With `adaptive`, `now` is the
    budget of this update, and `view_tokens` the smallest that it may become.
    """

    mode: Mode
    view_tokens: int
    token_px: int
    selected: Mapping[str, int] = field(default_factory=dict)
    min_tokens: int = 1
    now: int = 0

    def keeps(self, sample: Sample) -> bool:
        """Whether this sample is trained on."""
        if self.mode is Mode.READER:
            return critical_tokens(sample, self.token_px) is not None
        return self.mode is not Mode.CALIBRATED or sample.id in self.selected

    def budget_of(self, sample: Sample) -> int:
        """The budget of a sample that is kept, in merged visual tokens."""
        if self.mode is Mode.READER:
            tokens = critical_tokens(sample, self.token_px)
            assert tokens is not None
            return tokens
        if self.mode is Mode.ADAPTIVE:
            return self.now
        return self.selected[sample.id] if self.mode is Mode.CALIBRATED else self.view_tokens

    def view_of(self, sample: Sample, original: Original) -> tuple[View, Original]:
        """The view of a sample, and the image that its crops are cut from: the original, or with
        `off` the view itself.

        Raises ValueError like `resize_to_budget`.
        """
        view = resize_to_budget(original, self.budget_of(sample), self.token_px, self.min_tokens)
        return view, Decoded(view.image) if self.mode is Mode.OFF else original


def critical_tokens(sample: Sample, token_px: int) -> int | None:
    """The view in which a reader no longer reads the answer, in merged visual tokens of `token_px`; None if the record has none.

    `make questions` writes it as `meta.critical_view`. Raises ValueError for another content.
    """
    stored = sample.meta.get("critical_view")
    if stored is None:
        return None
    try:
        tokens, side = stored["tokens"], stored["token_px"]  # type: ignore[index]
        if not tokens >= 1 or not side >= 1:
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"sample {sample.id}: meta.critical_view is {stored!r}; it holds tokens and token_px, each at least 1 (docs/data.md)"
        ) from None
    return max(1, tokens * side**2 // token_px**2)


def ladder(size: Size, token_px: int, floor_tokens: int = FLOOR_TOKENS) -> list[int]:
    """Budgets of E2 in merged tokens, from the native size (level 0) down, halved at every level.

    The last is at least `floor_tokens`, and large enough to keep the shape of the image.
    """
    width, height = fit(size, 16384, token_px)
    native = width * height // token_px**2
    floor = max(floor_tokens, math.ceil(max(size) / min(size)))  # a long strip keeps a height of one token
    budgets = [native]
    while budgets[-1] // 2 >= floor:
        budgets.append(budgets[-1] // 2)
    return budgets


def adapted(tokens: int, success: float, sharper_below: float, coarser_from: float, least: int, most: int) -> int:
    """E17: the next budget of the adaptive gap, in merged tokens: half where the policy succeeds often, twice where it does rarely.

    `success` is the accuracy of its rollouts with the budget `tokens`, in [0, 1]. The budget stays within `least` and `most`.
    """
    if success >= coarser_from:
        return max(least, tokens // 2)
    return min(most, 2 * tokens) if success < sharper_below else tokens


class Search(StrEnum):
    """How calibration searches for the level of E2."""

    LADDER = "ladder"  # exact: from sharp to coarse, until the answer diverges from the native one
    EXHAUSTIVE = "exhaustive"  # exact: every level of every question, the reference
    BISECTION = "bisection"  # approximate: assumes that an answer which diverges also diverges at all coarser levels


def majority(meanings: Sequence[str | None]) -> str | None:
    """The most frequent meaning; the first of several equally frequent ones."""
    return Counter(meanings).most_common(1)[0][0]


def diverges(meanings: Sequence[str | None], native: Sequence[str | None], agree_below: float) -> bool:
    """Whether fewer than the share `agree_below` of a level's answers equal the majority of the
    native answers.

    Both arguments hold canonical meanings (`answers.canonical`): `B. red` and `(B)` are the same
    choice. The paper's rule is one answer on each side.
    """
    native_answer = majority(native)
    return sum(meaning == native_answer for meaning in meanings) / len(meanings) < agree_below


def select_level(levels: Sequence[Sequence[str | None]], agree_below: float = 0.5) -> int | None:
    """E2: the first level k >= 1 whose answers diverge from those of level 0, the native view; None
    if none does.

    `levels[k]` holds the meanings of the answers at level k, from sharp to coarse. The caller drops
    questions that are answered wrongly at native resolution.
    """
    return next((k for k in range(1, len(levels)) if diverges(levels[k], levels[0], agree_below)), None)


def write_levels(path: Path, levels: Mapping[str, int], identity: str) -> None:
    """Write the chosen budgets (sample id, view tokens) as parquet.

    The file appears whole or not at all.
    """
    table = pa.table({"sample": list(levels), "view_tokens": pa.array(levels.values(), pa.int32())})
    table = table.replace_schema_metadata({"identity": identity})
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def read_levels(path: Path) -> dict[str, int]:
    """The chosen budgets by sample id.

    Raises ValueError for a file that calibration did not write.
    """
    try:
        table = pq.read_table(path)
        return dict(zip(table["sample"].to_pylist(), table["view_tokens"].to_pylist(), strict=True))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ValueError(f"gap.table {path} is not a table of chosen budgets ({error}); write it with make calibrate") from error


def levels_identity(path: Path) -> str | None:
    """The hash of the policy, data and ladder of a table; None if there is no readable table."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"identity", b"").decode()
    except (OSError, pa.ArrowInvalid):
        return None
