"""Readers of the sets that the field publishes: each into the canonical record, every dropped row counted."""

from focus.data.readers import (
    cof,
    deepeyes,
    documents,
    gqa,
    hrbench,
    mme_realworld,
    pixelreasoner,
    seal,
    textvqa,
    thinklite,
    treebench,
    treevgr,
    vigorl,
    visual_cot,
    visualprobe,
    vstar,
    zoombench,
    zwz,
)
from focus.data.readers.draft import Published
from focus.data.readers.ingest import Reading, ingest

__all__ = ["SETS", "TESTS", "Published", "Reading", "ingest"]

EVALUATION = (vstar, hrbench, mme_realworld, treebench, zoombench, visualprobe, documents)
TRAINING = (pixelreasoner, cof, thinklite, deepeyes, treevgr, seal, vigorl, visual_cot, gqa, textvqa, zwz)

# No policy trains on these: their images, and for HR-Bench both resolutions, are what it is measured by
TESTS: tuple[str, ...] = ("vstar", "hrbench4k", "hrbench8k", "mme_rw_lite", "mme_rw", "mme_rw_cn", "treebench", "zoombench", "visualprobe")
TESTS += ("infovqa", "docvqa", "textvqa")  # their validation parts

SETS: dict[str, Published] = {}  # by the name in `data.source`
for module in (*EVALUATION, *TRAINING):
    for published in module.SETS:
        assert published.source not in SETS, f"two readers are called {published.source}: {module.__name__} has the second"
        SETS[published.source] = published
