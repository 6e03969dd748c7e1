"""From a picture or a page of a document to the questions that it could give.

A text layer is read where it agrees with the ink of the page. Other pages and photographs are read
by OCR, if it is installed. The reader that read a word also says in which views it is lost
(`views.py`).
"""

import hashlib
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.data.images.header import HUGE_PX, image_size
from focus.data.images.original import read
from focus.documents import checks
from focus.documents.audit import Audit
from focus.documents.folder import Dropped, Piece
from focus.documents.ink import lies, look
from focus.documents.kinds import KINDS, Candidate
from focus.documents.ocr import OCR
from focus.documents.page import Page, Word, lay_out
from focus.documents.pdf import open_pdf, render
from focus.documents.views import ALWAYS_READ, Views, critical_by_height, lost_words, views_of
from focus.runtime.files import atomic_write

TEXT_LAYER, BY_OCR = "text layer", "OCR"  # the readers, as records name them
LYING_LAYER = "pages whose text layer lies: its boxes have no ink"
NO_TEXT = "pages without a text layer (scans); reading them needs OCR: make env-questions"
NO_OCR = "pictures; reading them needs OCR: make env-questions"
TOO_LARGE = "pictures of more than 67 Mpx"
NO_WORD = "pages and pictures without a usable word"
SPARE = 3  # candidates per wanted question: some are guessed, which is known when all pages are read


@dataclass(frozen=True)
class Wishes:
    """What is asked of every page. `shares` are the weights of the kinds of questions."""

    seed: int
    page_px: int
    questions_per_page: int
    token_px: int
    floor_tokens: int
    least_confidence: float
    shares: Mapping[str, float]


Lost = Callable[[Candidate], int | str]  # the critical view of a candidate in tokens, or why it has none


def read_piece(piece: Piece, wishes: Wishes, ocr: OCR | None, output: Path, dropped: Dropped, audit: Audit) -> dict[str, Any] | None:
    """What a page gives, as a line of JSON: its candidates, and its neighbouring words for `checks.guessed`.

    The picture is written to `output`, named by its hash. None if it gives nothing; `dropped` says
    why. Raises ValueError if it can't be read.
    """
    pixels, layer, frames = _opened(piece, wishes.page_px)
    size = (pixels.shape[1], pixels.shape[0])
    views = views_of(size, wishes.token_px, wishes.floor_tokens)
    words, reader = look(layer, pixels), TEXT_LAYER
    if lying := lies(words):
        dropped.add(LYING_LAYER, piece.place)
    if not words or lying:
        if ocr is None:
            if not lying:
                dropped.add(NO_OCR if piece.page is None else NO_TEXT, piece.place)
            return None
        words, reader = look(ocr.read(pixels), pixels, believed=True), BY_OCR
    else:
        audit.look(words, pixels, wishes.least_confidence)
    page = lay_out(words, size, "picture" if piece.page is None else "page", frames)
    for word in page.words:
        if word.flaw:
            dropped.add(f"words: {word.flaw}", f"{piece.place}: {word.text!r}")
    if not any(page.sound):
        dropped.add(NO_WORD, piece.place)
        return None
    lost: Lost = partial(_lost_by_height, page, views)
    if reader == BY_OCR:
        assert ocr is not None
        lost = partial(_lost_by_ocr, lost_words(page, ocr, pixels, views))
    rng = random.Random(f"{wishes.seed} {piece.place}")
    chosen = list(_choose(page, wishes, lost, rng, piece, dropped))
    if not chosen:
        return None
    return {
        "name": piece.name,
        "page": piece.page,
        "image": _write(piece, pixels, output),
        "size": size,
        "reader": reader,
        "candidates": chosen,
        "pairs": sorted(checks.pairs_of(page)),
    }


def _opened(piece: Piece, page_px: int) -> tuple[np.ndarray, list[Word], list]:
    """The pixels of a piece (height x width x RGB), and of a page its text layer and frames."""
    if piece.page is None:
        if math.prod(image_size(piece.path)) > HUGE_PX:
            raise ValueError(TOO_LARGE)
        original = read(piece.path)
        return np.asarray(original.reduced(original.size)), [], []
    with open_pdf(piece.path) as document:
        return render(document, piece.page, page_px)


def _choose(page: Page, wishes: Wishes, lost: Lost, rng: random.Random, piece: Piece, dropped: Dropped) -> Iterator[dict[str, Any]]:
    """Candidates in random order, the kinds by their shares, no word asked for twice; some more than are wanted."""
    left = {}
    for name, share in wishes.shares.items():
        found = list(KINDS[name](page, rng)) if share > 0 else []
        rng.shuffle(found)
        if found:
            left[name] = found
    used: set[int] = set()
    wanted = SPARE * wishes.questions_per_page
    while left and wanted:
        kind = rng.choices(list(left), [wishes.shares[name] for name in left])[0]
        candidate = left[kind].pop()
        if not left[kind]:
            del left[kind]
        if used & set(candidate.evidence):
            continue
        view = checks.fault_of(candidate, page, wishes.least_confidence) or lost(candidate)
        if isinstance(view, str):
            dropped.add(f"questions: {view}", f"{piece.place}: {candidate.question}")
            continue
        used |= set(candidate.evidence)
        wanted -= 1
        yield asdict(candidate) | {
            "boxes": [page.chain(candidate.evidence)],
            "view_tokens": view,
            "height_px": round(min(page.words[word].height_px for word in candidate.evidence), 1),
            "confidence": round(min(page.words[word].confidence for word in candidate.evidence), 4),
        }


def _lost_by_height(page: Page, views: Views, candidate: Candidate) -> int | str:
    return critical_by_height(min(page.words[word].height_px for word in candidate.evidence), page.size, views)


def _lost_by_ocr(lost: Mapping[int, int], candidate: Candidate) -> int | str:
    """The sharpest view in which one of the words is lost."""
    return max((lost[word] for word in candidate.evidence if word in lost), default=ALWAYS_READ)


def _write(piece: Piece, pixels: np.ndarray, output: Path) -> str:
    """The picture under the hash of its content: a copy of a picture, a PNG of a page."""
    if piece.page is None:
        name = hashlib.sha256(piece.path.read_bytes()).hexdigest() + piece.path.suffix.lower()
        if not (output / name).is_file():
            with atomic_write(output / name) as partial_path:
                shutil.copyfile(piece.path, partial_path)
        return name
    grey = bool((pixels[:, :, 0] == pixels[:, :, 1]).all() and (pixels[:, :, 1] == pixels[:, :, 2]).all())
    encoded = BytesIO()
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(encoded, format="PNG", compress_level=4)
    name = hashlib.sha256(encoded.getbuffer()).hexdigest() + ".png"
    with atomic_write(output / name) as partial_path:
        partial_path.write_bytes(encoded.getbuffer())
    return name
