"""M-RoPE positions of Qwen2.5-VL, Qwen3-VL and Qwen3.5."""

from collections.abc import Sequence

import numpy as np


def mrope_positions(ids: Sequence[int], grids: Sequence[tuple[int, int, int]], image_pad_id: int, merge: int) -> np.ndarray:
    """M-RoPE position ids of a whole sequence, int64 [3, token]: temporal, row, column.

    Text counts up on all three axes. A token of an image that starts at p has p, p + row, p +
    column; the text after the image continues at p + max(rows, columns). `grids` are (frames, rows,
    columns) in patches, `merge` is the number of patches per merged token along one side. The rule
    is the same for all families (tested against transformers' `get_rope_index`). Raises
    ValueError if the numbers of placeholders and visual tokens differ.
    """
    pads = np.asarray(ids) == image_pad_id
    expected = sum(t * h * w for t, h, w in grids) // merge**2
    if int(pads.sum()) != expected:
        raise ValueError(f"{int(pads.sum())} image placeholders for {expected} visual tokens; the numbers must be equal")
    out = np.empty((3, len(pads)), dtype=np.int64)
    at = position = 0  # index of the next token, and its position
    for _, patch_rows, patch_columns in grids:
        rows, columns = patch_rows // merge, patch_columns // merge
        start = at + int(np.argmax(pads[at:]))
        text = start - at
        out[:, at:start] = np.arange(position, position + text)
        position += text
        grid = out[:, start : start + rows * columns]
        grid[0] = position
        grid[1] = position + np.repeat(np.arange(rows), columns)
        grid[2] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        at = start + rows * columns
    out[:, at:] = np.arange(position, position + len(pads) - at)
    return out
