"""Show what a data set holds: counts, sizes, options, a contact sheet, images shared with other sets."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from focus import config
from focus.build import training_samples
from focus.config.schema import InspectConfig
from focus.data.leaks import known_sets, report
from focus.data.readers import SETS, TESTS
from focus.data.sample import Records, Sample
from focus.report.sheet import draw_sheet
from focus.report.survey import Contents, _kinds, _print, _three, spread, survey


def run(composed: DictConfig) -> None:
    """Write `inspect.json` and `sheet.png`, and print what they say."""
    cfg = config.validated(composed, InspectConfig)
    with config.alone(cfg.output):  # refused now, not after the reading
        _inspect(cfg)


def _inspect(cfg: InspectConfig) -> None:
    # What is printed holds names and texts of others
    console, output, source = Console(markup=False), Path(cfg.output), cfg.data.source
    with config.writable(cfg.output):
        (output / "sheet.png").unlink(missing_ok=True)
        (output / "inspect.json").write_text("{}\n")
    samples = training_samples(cfg.data)
    contents, shared = survey(samples), _shared(cfg, samples)
    _print(contents, source, shared, console)
    shown = [samples[index] for index in spread(len(samples), cfg.pictures, cfg.seed)]
    sheet = draw_sheet(shown, f"{source}: {len(shown)} of {len(samples)} questions")
    pictures = [{"id": sample.id, "question": sample.question, "answers": sample.answers} for sample in shown]
    record = _record(contents, cfg, samples) | {"shared": shared, "pictures": pictures, "broken": sheet.broken}
    with config.writable(cfg.output):
        (output / "inspect.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if sheet.image is not None:
            sheet.image.save(output / "sheet.png")
    if sheet.broken:
        first, reason = next(iter(sheet.broken.items()))
        told = f"{len(sheet.broken)} of the {len(shown)} images that were opened can't be read (first: {first}: {reason})"
        if sheet.image is None:
            raise ValueError(f"{told}; so there is no sheet. What was counted stands in {output / 'inspect.json'}")
        console.print(Text(told, style="red"))
    console.print(f"sheet: {output / 'sheet.png'}\ninspect: {output / 'inspect.json'}", soft_wrap=True)


def _shared(cfg: InspectConfig, samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The sets that this one was compared with, what the leak guard says about them, and the test sets that nobody read here.

    Scenes have no files to compare.
    """
    if not isinstance(samples, Records):
        return {"compared": [], "found": [], "unread": []}
    known = {name: path for name, path in known_sets(Path(cfg.data.cache_dir).parent).items() if path.parent != samples.path.parent}
    unread = [name for name in TESTS if name not in known and name != cfg.data.source]
    return {"compared": list(known), "found": report(cfg.data.source, samples.path, known), "unread": unread}


def _record(found: Contents, cfg: InspectConfig, samples: Sequence[Sample]) -> dict[str, object]:
    """Everything that was counted, for `inspect.json`; counts are ordered from the largest."""
    published = SETS.get(cfg.data.source)
    told = json.loads((Path(cfg.data.cache_dir) / "reading.json").read_text()) if published else {}
    sizes = sorted(found.images.values(), key=math.prod)
    return {
        "source": cfg.data.source,
        "records": str(samples.path) if isinstance(samples, Records) else None,
        "published": published.counts if published else None,
        "questions": found.questions,
        "decidable": found.decidable,
        "groups": len(found.groups),
        "reading": {name: told[name] for name in ("dropped", "notes", "first")} if published else None,
        "fields": {name: dict(counter.most_common()) for name, counter in found.fields.items()},
        "meta": {name: dict(counter.most_common()) for name, counter in _kinds(found)},
        "options": dict(sorted(found.options.items())),
        "letters": dict(sorted(found.letters.items())),
        "images": {
            "distinct": len(sizes),
            "smallest": sizes[0],
            "median": sizes[len(sizes) // 2],
            "largest": sizes[-1],
            "megapixels": [round(math.prod(size) / 1e6, 3) for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1])],
        },
        "boxes": {
            "questions": found.boxed,
            "targets": dict(sorted(found.targets.items())),
            "levels": dict(sorted(found.levels.items())),
            "evidence_share": _three(found.evidence),
        },
        "characters": _three(found.characters),
    }
