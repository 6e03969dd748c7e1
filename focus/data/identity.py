"""The identity of questions by their content, so that results on different data are never confused."""

import hashlib
import json
from collections.abc import Sequence

from focus.data.drawn import Drawn
from focus.data.sample import ImageFile, ImageSource, Sample


def questions_digest(samples: Sequence[Sample]) -> str:
    """A hash of these questions in their order: every field of every record, and the identity of
    its image.

    The hash changes with the records: repaired annotations, derived boxes, a mix of sets, a
    replaced file. An image file is identified by its name, size in bytes and time of change,
    because reading all images of a large set takes hours. The hash stays the same if a set moves to
    another folder and its files keep their times. Drawn scenes and pages are identified by spec, split,
    first index and count.
    """
    if isinstance(samples, Drawn):
        return hashlib.blake2b(repr((samples.spec, samples.split, samples.start, len(samples))).encode(), digest_size=8).hexdigest()
    digest = hashlib.blake2b(digest_size=8)
    stamps: dict[ImageSource, str] = {}  # several questions may ask about one image
    for s in samples:
        if s.image not in stamps:
            stamps[s.image] = _stamp(s.image)
        record = (s.id, s.source, s.split, s.size, s.question, s.answers, s.scorer, s.options, s.boxes, s.group, s.meta, stamps[s.image])
        digest.update(json.dumps(record, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _stamp(image: ImageSource) -> str:
    if not isinstance(image, ImageFile):
        return repr(image)
    try:
        status = image.path.stat()
    except OSError:
        return f"{image.path.name} is missing"
    return f"{image.path.name} {status.st_size} {status.st_mtime_ns}"
