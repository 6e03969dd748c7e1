"""Readers of published data sets: each converts its files to canonical records and counts dropped
rows.
"""

from focus.data.readers import (
    cof,
    deepeyes,
    documents,
    gqa,
    hrbench,
    mme_realworld,
    o3bench,
    pixelreasoner,
    seal,
    textvqa,
    thinklite,
    treebench,
    treevgr,
    viebench,
    vigorl,
    visual_cot,
    visualneedle,
    visualprobe,
    vstar,
    zoombench,
    zwz,
)
from focus.data.readers.draft import Published
from focus.data.readers.ingest import Reading, ingest

__all__ = ["SETS", "TESTS", "Published", "Reading", "ingest"]

EVALUATION = (vstar, hrbench, mme_realworld, treebench, zoombench, visualprobe, visualneedle, viebench, o3bench, documents)
TRAINING = (pixelreasoner, cof, thinklite, deepeyes, treevgr, seal, vigorl, visual_cot, gqa, textvqa, zwz)

# Test sets: no policy may train on their images. For HR-Bench this includes both resolutions
TESTS: tuple[str, ...] = ("vstar", "hrbench4k", "hrbench8k", "mme_rw_lite", "mme_rw", "mme_rw_cn", "treebench", "zoombench", "visualprobe")
TESTS += ("visualneedle", "viebench", "o3bench")
TESTS += ("infovqa", "docvqa", "textvqa")  # their validation parts

SETS: dict[str, Published] = {}  # by the name in `data.source`
for module in (*EVALUATION, *TRAINING):
    for published in module.PUBLISHED:
        assert published.source not in SETS, f"two published sets are called {published.source}: the second is in {module.__name__}"
        SETS[published.source] = published
