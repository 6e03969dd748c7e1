"""What questions are by their content, so that a measurement or a training is never taken for one of other data."""

import hashlib
import json
from collections.abc import Sequence

from focus.data.sample import ImageFile, ImageSource, Sample
from focus.data.scenes import Scenes


def questions_digest(samples: Sequence[Sample]) -> str:
    """A hash of these questions in their order: every field of every record, and which images they ask about.

    What changes the records (repaired annotations, derived boxes, a mix of sets, a replaced file) changes the hash. An image file counts
    by its name, size in bytes and time of change: opening each would take hours for the large sets. A set that moves to another
    folder, with the times of its files kept, stays the same. Embedded scenes are named by their spec, split, first index and count.
    """
    if isinstance(samples, Scenes):
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
        found = image.path.stat()
    except OSError:
        return f"{image.path.name} is missing"
    return f"{image.path.name} {found.st_size} {found.st_mtime_ns}"
