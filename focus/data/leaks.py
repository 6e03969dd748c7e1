"""The leak guard: are the same images in two sets?

Images are compared by the bytes of their files, so that a copy is recognised wherever it lies. One that was encoded or resized again is
not: where nothing is found, that is no proof. The crops of HR-Bench 4K are such a case, hence the rule below.
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
from focus.data.sample import mended

DIGEST_BYTES = 16  # of a hash in memory
SHA256 = re.compile(r"[0-9a-f]{64}")

# Sets that show the same scenes in other files: images of the 4K set are cut out of those of the 8K set, about the same objects
SAME_SCENES = (("hrbench4k", "hrbench8k"),)


class Asked(NamedTuple):
    """What a set asks about one image: the id of the first question, and how many there are.

    `hashed`: is the image known by its bytes? `drawn`: is the box drawn on it, so that its bytes are those of no original?
    """

    first: str
    questions: int
    hashed: bool
    drawn: bool = False


class Overlap(NamedTuple):
    """The images that two sets share: how many, the questions about them in each set, and for the first of them an id in each."""

    images: int
    questions: tuple[int, int]
    first: tuple[str, str]


def hashes(records: Path) -> dict[bytes, Asked]:
    """The images of a `records.jsonl`, each by 16 bytes of its hash. The file is streamed, and no image is opened.

    A record without `image_sha256` is known by the name of its image: the hash itself where our own writer named it, or else the place
    of the file, which recognises nothing but that file. Raises ValueError, with file and line, for a file of other things than records.
    """
    found: dict[bytes, Asked] = {}
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
                        f"{records.parent}, and if a published set was kept there, read that again with `make inspect`"
                    ) from error
                known = found.get(digest)
                found[digest] = known._replace(questions=known.questions + 1) if known else Asked(first, 1, hashed, drawn)
    return found


def overlaps(a: Mapping[bytes, Asked], b: Mapping[bytes, Asked]) -> Overlap:
    """The images that are in both; its counts and ids are those of `a` first. Without any, `images` is 0 and the ids are empty."""
    shared = [digest for digest in a if digest in b]
    if not shared:
        return Overlap(0, (0, 0), ("", ""))
    questions = (sum(a[digest].questions for digest in shared), sum(b[digest].questions for digest in shared))
    return Overlap(len(shared), questions, (a[shared[0]].first, b[shared[0]].first))


def known_sets(folder: Path) -> dict[str, Path]:
    """The records of every set that was read before, by its name: `<folder>/<name>/records.jsonl`."""
    return {path.parent.name: path for path in sorted(folder.glob("*/records.jsonl"))}


def report(name: str, records: Path, known: Mapping[str, Path]) -> list[str]:
    """What a set shares with each of the others, in sentences that also say what to do. None: nothing was found.

    `records` is the file whose questions are meant: the set as published, or the part of it that is annotated. A known set in the same
    folder is the set itself and is left out.
    """
    mine = hashes(records)
    sources, sentences = _sources(mine), []
    if unhashed := sum(asked.questions for asked in mine.values() if not asked.hashed):
        sentences.append(
            f"{unhashed} questions of {name} have no image_sha256, nor an image that is named by its hash: copies in other sets are not "
            "recognised. Add the field"
        )
    if any(asked.drawn for asked in mine.values()):
        sentences.append(_drawn(name))
    for other, path in known.items():
        if path.resolve().parent == records.resolve().parent:
            continue
        theirs = hashes(path)
        others, shared = _sources(theirs), overlaps(mine, theirs)
        if any(asked.drawn for asked in theirs.values()):
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
    for stated in (record.get("image_sha256"), Path(record["image"]).stem):
        if isinstance(stated, str) and SHA256.fullmatch(stated):
            return bytes.fromhex(stated)[:DIGEST_BYTES], True
    place = os.path.join(folder, mended(record["image"]))
    with suppress(ValueError):  # a name that no file can have
        place = os.path.realpath(place)  # unlike Path.resolve, it does not stumble over links that lead to themselves
    return hashlib.blake2b(place.encode(errors="surrogateescape"), digest_size=DIGEST_BYTES).digest(), False


def _sources(images: Mapping[bytes, Asked]) -> set[str]:
    """The published sets that the questions are from, whatever the records are called now: ids begin with them."""
    return {asked.first.split("/", 1)[0] for asked in images.values()}


def _drawn(name: str) -> str:
    return (
        f"the images of {name} have the box drawn on them, so their hashes match no original: what it shares with other sets can't be told "
        "here; see where its images are from"
    )


def _advice(*sets: tuple[str, set[str]]) -> str:
    tested = [name for name, sources in sets if sources & {*TESTS}]
    if len(tested) == len(sets):
        return "Both are test sets: do not count their results as two"
    if not tested:
        return "If you train on one and test on the other, leave the questions about these images out of the training"
    [trained] = [name for name, _ in sets if name not in tested]
    return f"{tested[0]} is a test set: do not train on these questions of {trained}, or do not test on {tested[0]}"
