"""Show what a data set holds: counts, sizes, options, a contact sheet, and shared images."""

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
from focus.report.survey import Contents, kinds, print_contents, smallest_median_largest, stratified_indices, survey
from focus.runtime.files import json_text


def run(composed: DictConfig) -> None:
    """Write `inspect.json` and `sheet.png`, and print the counts."""
    cfg = config.validated(composed, InspectConfig)
    with config.alone(cfg.output):  # a folder in use is refused before the data are read
        _inspect(cfg)


def _inspect(cfg: InspectConfig) -> None:
    # Texts from data sets are printed as they are
    console, output, source = Console(markup=False), Path(cfg.output), cfg.data.source
    with config.writable(cfg.output):
        (output / "sheet.png").unlink(missing_ok=True)
        (output / "inspect.json").write_text("{}\n")
    samples = training_samples(cfg.data)
    contents, shared = survey(samples), _shared(cfg, samples)
    print_contents(contents, source, shared, console)
    shown = [samples[index] for index in stratified_indices(len(samples), cfg.pictures, cfg.seed)]
    sheet = draw_sheet(shown, f"{source}: {len(shown)} of {len(samples)} questions")
    pictures = [{"id": sample.id, "question": sample.question, "answers": sample.answers} for sample in shown]
    record = _record(contents, cfg, samples) | {"shared": shared, "pictures": pictures, "broken": sheet.broken}
    with config.writable(cfg.output):
        (output / "inspect.json").write_text(json_text(record, indent=1, ensure_ascii=False) + "\n")
        if sheet.image is not None:
            sheet.image.save(output / "sheet.png")
    if sheet.broken:
        first, reason = next(iter(sheet.broken.items()))
        message = f"{len(sheet.broken)} of the {len(shown)} images that were opened can't be read (first: {first}: {reason})"
        if sheet.image is None:
            raise ValueError(f"{message}; so there is no sheet. The counts are in {output / 'inspect.json'}")
        console.print(Text(message, style="red"))
    console.print(f"sheet: {output / 'sheet.png'}\ninspect: {output / 'inspect.json'}", soft_wrap=True)


def _shared(cfg: InspectConfig, samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The sets that were compared with this one, shared images, and test sets not read yet.

    Scenes have no files to compare.
    """
    if not isinstance(samples, Records):
        return {"compared": [], "found": [], "unread": []}
    others = {name: path for name, path in known_sets(Path(cfg.data.cache_dir).parent).items() if path.parent != samples.path.parent}
    unread = [name for name in TESTS if name not in others and name != cfg.data.source]
    return {"compared": list(others), "found": report(cfg.data.source, samples.path, others), "unread": unread}


def _record(contents: Contents, cfg: InspectConfig, samples: Sequence[Sample]) -> dict[str, object]:
    """All counts for `inspect.json`, the largest first."""
    published = SETS.get(cfg.data.source)
    reading = json.loads((Path(cfg.data.cache_dir) / "reading.json").read_text()) if published else {}
    sizes = sorted(contents.images.values(), key=math.prod)
    return {
        "source": cfg.data.source,
        "records": str(samples.path) if isinstance(samples, Records) else None,
        "published": published.counts if published else None,
        "questions": contents.questions,
        "decidable": contents.decidable,
        "groups": len(contents.groups),
        "reading": {name: reading[name] for name in ("dropped", "notes", "first")} if published else None,
        "fields": {name: dict(counter.most_common()) for name, counter in contents.fields.items()},
        "meta": {name: dict(counter.most_common()) for name, counter in kinds(contents)},
        "options": dict(sorted(contents.options.items())),
        "letters": dict(sorted(contents.letters.items())),
        "images": {
            "distinct": len(sizes),
            "smallest": sizes[0],
            "median": sizes[len(sizes) // 2],
            "largest": sizes[-1],
            "megapixels": [round(math.prod(size) / 1e6, 3) for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1])],
        },
        "boxes": {
            "questions": contents.boxed,
            "targets": dict(sorted(contents.targets.items())),
            "levels": dict(sorted(contents.levels.items())),
            "evidence_share": smallest_median_largest(contents.evidence),
        },
        "characters": smallest_median_largest(contents.characters),
    }
