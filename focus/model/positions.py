"""M-RoPE positions of Qwen2.5-VL and Qwen3-VL."""

from collections.abc import Sequence

import numpy as np


def mrope_positions(ids: Sequence[int], grids: Sequence[tuple[int, int, int]], image_pad_id: int, merge: int) -> np.ndarray:
    """M-RoPE positions of a whole sequence, int64 [3, token]: temporal, row, column.

    Text counts up on all three; an image at p takes p, p + row, p + column, and the text after it goes on at
    p + max(rows, columns). The same for Qwen2.5-VL and Qwen3-VL (tested against transformers' `get_rope_index`).
    Raises ValueError where placeholders and grids do not agree.
    """
    pads = np.asarray(ids) == image_pad_id
    expected = sum(t * h * w for t, h, w in grids) // merge**2
    if int(pads.sum()) != expected:
        raise ValueError(f"{int(pads.sum())} image placeholders stand for {expected} visual tokens; they must agree")
    out = np.empty((3, len(pads)), dtype=np.int64)
    at = checkpoint_path = 0
    for _, patch_rows, patch_columns in grids:
        rows, columns = patch_rows // merge, patch_columns // merge
        start = at + int(np.argmax(pads[at:]))
        text = start - at
        out[:, at:start] = np.arange(checkpoint_path, checkpoint_path + text)
        checkpoint_path += text
        grid = out[:, start : start + rows * columns]
        grid[0] = checkpoint_path
        grid[1] = checkpoint_path + np.repeat(np.arange(rows), columns)
        grid[2] = checkpoint_path + np.tile(np.arange(columns), rows)
        checkpoint_path += max(rows, columns)
        at = start + rows * columns
    out[:, at:] = np.arange(checkpoint_path, checkpoint_path + len(pads) - at)
    return out
