"""The leak guard: finds images that two sets share.

Images are compared by the bytes of their files, so a copy is recognised under any path. A copy that
was encoded or resized again is not recognised, so an empty result is no proof. The crops of
HR-Bench 4K are such copies; `SAME_SCENES` covers them.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from focus.data.readers import TESTS
from focus.runtime.text import replace_surrogates

DIGEST_BYTES = 16  # of a hash in memory
SHA256 = re.compile(r"[0-9a-f]{64}")

# Sets that show the same scenes in different files: images of the 4K set are crops of the 8K set's
# images
SAME_SCENES = (("hrbench4k", "hrbench8k"),)


class ImageUse(NamedTuple):
    """The questions of a set about one image: the id of the first one, and their number.

    `hashed`: whether the image is identified by the hash of its bytes. `drawn`: whether the box is
    drawn on the image, so that its hash matches no original.
    """

    first: str
    questions: int
    hashed: bool
    drawn: bool = False


class Overlap(NamedTuple):
    """The images that two sets share: their number, and for each set the questions about them and
    the first id.
    """

    images: int
    questions: tuple[int, int]
    first: tuple[str, str]


def hashes(records: Path) -> dict[bytes, ImageUse]:
    """The images of a `records.jsonl` by 16 bytes of their hash.

    The file is streamed; no image is opened.

    A record without `image_sha256` is identified by the name of its image if that is a hash, as in
    our own files, or else by the path of the file, which matches only that file. Raises ValueError,
    with file and line, for a line that is not a record.
    """
    images: dict[bytes, ImageUse] = {}
    with records.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                    digest, hashed = _digest(record, records.parent)
                    first, drawn = record["id"], bool((record.get("meta") or {}).get("box_is_drawn"))
                    if not isinstance(first, str):
                        raise TypeError(f"its id is {first!r:.40}")
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise ValueError(
                        f"{records}, line {number}: not a record with id and image ({type(error).__name__}: {error}); move the file out of "
                        f"{records.parent}. If it is the cache of a published set, `make inspect` writes it again"
                    ) from error
                earlier = images.get(digest)
                images[digest] = earlier._replace(questions=earlier.questions + 1) if earlier else ImageUse(first, 1, hashed, drawn)
    return images


def overlaps(a: Mapping[bytes, ImageUse], b: Mapping[bytes, ImageUse]) -> Overlap:
    """The images that are in both; pairs have the value of `a` first.

    Without any, `images` is 0 and the ids are empty.
    """
    shared = [digest for digest in a if digest in b]
    if not shared:
        return Overlap(0, (0, 0), ("", ""))
    questions = (sum(a[digest].questions for digest in shared), sum(b[digest].questions for digest in shared))
    return Overlap(len(shared), questions, (a[shared[0]].first, b[shared[0]].first))


def known_sets(folder: Path) -> dict[str, Path]:
    """The cached records of every set by its name: `<folder>/<name>/records.jsonl`."""
    return {path.parent.name: path for path in sorted(folder.glob("*/records.jsonl"))}


def report(name: str, records: Path, known: Mapping[str, Path]) -> list[str]:
    """Warnings about images that a set shares with each of the others, with advice.

    Empty if there are none.

    `records` is the file with the questions: the set as published, or its annotated part. A set of
    `known` in the same folder is the set itself and is left out.
    """
    mine = hashes(records)
    sources, sentences = _sources(mine), []
    if unhashed := sum(use.questions for use in mine.values() if not use.hashed):
        sentences.append(
            f"{unhashed} questions of {name} have neither image_sha256 nor an image that is named by its hash: copies in other sets are "
            "not recognised. Add the field"
        )
    if any(use.drawn for use in mine.values()):
        sentences.append(_drawn(name))
    for other, path in known.items():
        if path.resolve().parent == records.resolve().parent:
            continue
        theirs = hashes(path)
        others, shared = _sources(theirs), overlaps(mine, theirs)
        if any(use.drawn for use in theirs.values()):
            sentences.append(_drawn(other))
        if shared.images:
            sentences.append(
                f"{name} shares {shared.images} images with {other}: {shared.questions[0]} of its questions and {shared.questions[1]} of "
                f"theirs are about them (first: {shared.first[0]} and {shared.first[1]}). " + _advice((name, sources), (other, others))
            )
        if any((a in sources and b in others) or (b in sources and a in others) for a, b in SAME_SCENES):
            sentences.append(
                f"{name} and {other} show the same scenes, although their files differ: never train on one and test on the other, and do "
                "not count their results as two"
            )
    return sentences


def _digest(record: Mapping, folder: Path) -> tuple[bytes, bool]:
    """The identity of a record's image, and whether it is the hash of the bytes."""
    for stated in (record.get("image_sha256"), Path(record["image"]).stem):
        if isinstance(stated, str) and SHA256.fullmatch(stated):
            return bytes.fromhex(stated)[:DIGEST_BYTES], True
    path = os.path.join(folder, replace_surrogates(record["image"]))
    with suppress(ValueError):  # an impossible file name
        # Unlike Path.resolve, it accepts links that lead to themselves
        path = os.path.realpath(path)
    return hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=DIGEST_BYTES).digest(), False


def _sources(images: Mapping[bytes, ImageUse]) -> set[str]:
    """The published sets of the questions. Ids begin with the name of the set."""
    return {use.first.split("/", 1)[0] for use in images.values()}


def _drawn(name: str) -> str:
    return (
        f"the images of {name} have the box drawn on them, so their hashes match no original and shared images are not found; "
        "check where its images are from"
    )


def _advice(*sets: tuple[str, set[str]]) -> str:
    tested = [name for name, sources in sets if sources & {*TESTS}]
    if len(tested) == len(sets):
        return "Both are test sets: do not count their results as two"
    if not tested:
        return "If you train on one and test on the other, leave the questions about these images out of the training"
    [trained] = [name for name, _ in sets if name not in tested]
    return f"{tested[0]} is a test set: do not train on these questions of {trained}, or do not test on {tested[0]}"
