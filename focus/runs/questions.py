"""Make questions from a folder of pictures and documents: records that training, probe and evaluation read."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.config.schema import QuestionsConfig
from focus.data.images.header import BadImage
from focus.data.sample import SCHEMA
from focus.documents import checks
from focus.documents.audit import SAME_BOX, Audit
from focus.documents.folder import BEYOND, DOCUMENTS, Dropped, Piece, chosen_pages, files
from focus.documents.kinds import GUESSABLE
from focus.documents.ocr import OCR, is_installed
from focus.documents.pdf import BadDocument, open_pdf
from focus.documents.reading import Wishes, read_piece
from focus.runtime.files import atomic_write, json_text
from focus.runtime.progress import Progress

Page = dict[str, Any]  # what was read of one
Record = dict[str, Any]  # a canonical record

COPY = "pages and pictures that equal an earlier one"
ENOUGH = "questions: more than questions_per_page"
GUESSED = f"questions: {checks.GUESSED}"


def run(composed: DictConfig) -> None:
    """Write `records.jsonl` with its images and `questions.json`, and print the counts."""
    cfg = config.validated(composed, QuestionsConfig)
    folder = Path(cfg.folder)
    output = Path(cfg.output or Path("outputs/questions") / folder.resolve().name)
    with config.alone(output):
        _make(cfg, folder, output)


def _make(cfg: QuestionsConfig, folder: Path, output: Path) -> None:
    console, dropped, start = Console(markup=False, highlight=False, soft_wrap=True), Dropped(), time.monotonic()
    pieces = list(_pieces(folder, output, cfg, dropped))
    if not pieces:
        raise ValueError(f"{folder} holds no picture or PDF that can be read ({_text(dropped)})")
    pages = _Pages(output / "pages.jsonl", output)
    read = _read(pieces, pages, cfg, output, console)
    audits: list[Mapping[str, int] | None] = []
    different: dict[str, str] = {}  # key by picture
    for key in read:
        line = pages.line(key)
        dropped.join(line["dropped"], line["first"])
        audits.append(line["audit"])
        if page := line["page"]:
            if page["image"] in different:
                dropped.add(COPY, _place(page))
            different.setdefault(page["image"], key)
    records = list(_records(cfg, folder, lambda: (pages.line(key)["page"] for key in different.values()), dropped))
    records = _balanced(records, dropped)
    summary = _summary(records, dropped, len(pieces), audits)
    with config.writable(output):
        (output / "questions.json").write_text(json_text(summary, indent=1) + "\n")
        if not records:
            raise ValueError(f"no question could be made from {folder} ({_text(dropped)}); all counts are in {output / 'questions.json'}")
        with atomic_write(output / "records.jsonl") as partial, partial.open("w") as out:
            out.writelines(json_text(record, ensure_ascii=False) + "\n" for record in records)
    _print(summary, output, time.monotonic() - start, len(pieces), console)


def _pieces(folder: Path, output: Path, cfg: QuestionsConfig, dropped: Dropped) -> Iterator[Piece]:
    """What is to be read. A document that can't be opened is counted."""
    for path, name in files(folder, output, dropped):
        if path.suffix.lower() not in DOCUMENTS:
            yield Piece(path, name)
            continue
        try:
            with open_pdf(path) as document:
                number = len(document)
        except BadDocument as error:
            dropped.add(f"documents: {error}", name)
            continue
        pages = chosen_pages(number, cfg.pages_per_file, cfg.seed, name)
        dropped.add(BEYOND, name, number - len(pages))
        yield from (Piece(path, name, page) for page in pages)


class _Pages:
    """The pages that were read, one line of JSON each, kept in a file: an interrupted start goes on, a later one reads what is new."""

    def __init__(self, path: Path, output: Path) -> None:
        self.path, self.starts = path, {}
        if not path.is_file():
            return
        with path.open("rb") as lines:
            at = 0
            for line in lines:
                try:
                    content = json.loads(line)
                except ValueError:  # the last line of a process that was killed
                    break
                if content["page"] is None or (output / content["page"]["image"]).is_file():
                    self.starts[content["key"]] = at
                at += len(line)
        with path.open("r+b") as file:
            file.truncate(at)

    def line(self, key: str) -> dict[str, Any]:
        """What was read of a page."""
        with self.path.open("rb") as lines:
            lines.seek(self.starts[key])
            return json.loads(lines.readline())

    def add(self, content: Mapping[str, Any]) -> None:
        """Keep what was read of a page."""
        with self.path.open("ab") as lines:
            self.starts[content["key"]] = lines.tell()
            lines.write(json_text(content).encode() + b"\n")


def _read(pieces: list[Piece], pages: _Pages, cfg: QuestionsConfig, output: Path, console: Console) -> list[str]:
    """Read all pieces that were not read before. Returns their keys, in their order."""
    wishes = Wishes(
        cfg.seed, cfg.page_px, cfg.questions_per_page, cfg.token_px, cfg.floor_tokens, cfg.least_confidence, cfg.shares.model_dump()
    )
    readers = {name: version(name) for name in ("pypdfium2", *(["rapidocr", "onnxruntime"] if is_installed() else []))}
    about = json.dumps([asdict(wishes), cfg.audit_pages, readers])
    keys = [_key(piece, about) for piece in pieces]
    todo = [(piece, key) for piece, key in zip(pieces, keys, strict=True) if key not in pages.starts]
    ocr = OCR(cfg.threads) if is_installed() and todo else None
    audit = Audit(cfg.audit_pages if ocr else 0, ocr)
    audit.left -= sum(pages.line(key)["audit"] is not None for key in keys if key in pages.starts)
    with Progress(console) as progress:
        advance, done = progress.begin("read", "page", len(pieces) - len(todo)), len(pieces) - len(todo)
        for piece, key in todo:
            dropped = Dropped()
            try:
                page = read_piece(piece, wishes, ocr, output, dropped, audit)
            except (BadDocument, BadImage) as error:
                page = None
                dropped.add(f"pages and pictures: {getattr(error, 'reason', error)}", piece.place)
            except ValueError as error:
                page = None
                dropped.add(f"pages and pictures: {error}", piece.place)
            pages.add({"key": key, "page": page, "dropped": dropped.counts, "first": dropped.first, "audit": audit.taken()})
            done += 1
            advance(done, len(pieces))
    return keys


def _key(piece: Piece, about: str) -> str:
    """What the questions of a page depend on: its file, settings, readers."""
    status = piece.path.stat()
    parts = f"{about} {piece.place} {status.st_size} {status.st_mtime_ns}"
    return hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()


def _place(page: Page) -> str:
    return page["name"] if page["page"] is None else f"{page['name']} page {page['page'] + 1}"


def _records(cfg: QuestionsConfig, folder: Path, pages: Callable[[], Iterable[Page]], dropped: Dropped) -> Iterator[Record]:
    """The questions of all pages. Left out are those that the other pages let one guess."""
    anchors = {candidate["anchor"] for page in pages() for candidate in page["candidates"]}
    followers = checks.count_followers(anchors, (map(tuple, page["pairs"]) for page in pages()))
    for page in pages():
        asked = [(candidate["anchor"], candidate["follower"]) for candidate in page["candidates"]]
        guessed = checks.guessed(asked, set(map(tuple, page["pairs"])), followers)
        kept = []
        for candidate, is_guessed in zip(page["candidates"], guessed, strict=True):
            if is_guessed:
                dropped.add(GUESSED, f"{_place(page)}: {candidate['question']}")
            else:
                kept.append(candidate)
        dropped.add(ENOUGH, _place(page), len(kept[cfg.questions_per_page :]))
        yield from (_record(cfg, folder, page, candidate) for candidate in kept[: cfg.questions_per_page])


def _balanced(records: list[Record], dropped: Dropped) -> list[Record]:
    """The questions without those that make one answer of a guessable kind too frequent."""
    gone = set()
    for kind in GUESSABLE:
        those = [record for record in records if record["meta"]["category"] == kind]
        for index in checks.surplus([record["answers"][0] for record in those]) if those else ():
            gone.add(those[index]["id"])
            dropped.add(f"questions: {checks.FREQUENT}", those[index]["id"])
    return [record for record in records if record["id"] not in gone]


def _record(cfg: QuestionsConfig, folder: Path, page: Page, candidate: dict[str, Any]) -> Record:
    """A canonical record (docs/data.md)."""
    source, place = folder.resolve().name, _place(page)
    return {
        "schema": SCHEMA,
        "id": f"{source}/{place}/{candidate['kind']}/{candidate['evidence'][0]}",
        "source": source,
        "split": "train",
        "image": page["image"],
        "image_sha256": Path(page["image"]).stem,
        "width": page["size"][0],
        "height": page["size"][1],
        "question": candidate["question"],
        "answers": candidate["answers"],
        "scorer": candidate["scorer"],
        "options": [{"key": key, "text": text} for key, text in candidate["options"]],
        "boxes": candidate["boxes"],
        "group": page["name"],
        "meta": {
            "category": candidate["kind"],
            "question_type": page["reader"],
            "critical_view": {"tokens": candidate["view_tokens"], "token_px": cfg.token_px},
            "height_px": candidate["height_px"],
            "confidence": candidate["confidence"],
        },
    }


def _summary(records: list[Record], dropped: Dropped, pages: int, audits: Iterable[Mapping[str, int] | None]) -> dict[str, Any]:
    """All counts, and what a guesser reaches who never sees a picture."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        kinds.setdefault(record["meta"]["category"], []).append(record["answers"][0])
    guesses = {kind: checks.majority_share(answers) for kind, answers in kinds.items()}
    audit: Counter[str] = Counter()
    for each in audits:
        audit.update(each or {})
    return {
        "questions": len(records),
        "pages": pages,
        "pages_with_questions": len({record["image"] for record in records}),
        "documents": len({record["group"] for record in records}),
        "kinds": {kind: len(answers) for kind, answers in kinds.items()},
        "readers": dict(Counter(record["meta"]["question_type"] for record in records)),
        "critical_views": dict(sorted(Counter(record["meta"]["critical_view"]["tokens"] for record in records).items())),
        "levels": dict(sorted(Counter(len(record["boxes"][0]) for record in records).items())),
        "majority_guess": {
            "all": sum(guesses[kind] * len(answers) for kind, answers in kinds.items()) / len(records) if records else None,
            "kinds": guesses,
        },
        "ocr": dict(audit) or None,
        "dropped": dict(dropped.counts),
        "first": dropped.first,
    }


def _text(dropped: Dropped) -> str:
    return "; ".join(f"{count} {reason} (first: {dropped.first[reason]})" for reason, count in dropped.counts.items()) or "it is empty"


def _print(summary: Mapping[str, Any], output: Path, seconds: float, pages: int, console: Console) -> None:
    for reason, count in summary["dropped"].items():
        console.print(f"left out: {count:,} {reason} (first: {summary['first'][reason]})")
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items())
    views = list(Counter(summary["critical_views"]).elements())
    guess = summary["majority_guess"]
    shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in guess["kinds"].items())
    console.print(
        f"{summary['questions']:,} questions from {summary['pages_with_questions']:,} of {pages:,} pages and pictures "
        f"in {summary['documents']:,} files ({kinds})\n"
        f"{60 * summary['questions'] / seconds:,.0f} questions a minute, {summary['questions'] / pages:.1f} a page\n"
        f"critical view, the largest that no longer shows the answer: a median of {median(views):,.0f} visual tokens "
        f"({min(views):,} to {max(views):,}); gap=reader trains there\n"
        f"the most frequent answer of each kind, without a look: right in {100 * guess['all']:.1f} % ({shares})"
    )
    if ocr := summary["ocr"]:
        right, boxes = ocr["right"] / max(1, ocr["words"]), ocr["boxes"] / max(1, ocr["right"])
        console.print(
            f"OCR against the text layer of {ocr['pages']} pages: of {ocr['words']:,} words that it is sure of {100 * right:.1f} % are "
            f"right, {100 * boxes:.1f} % of these with the right box (IoU at least {SAME_BOX})"
        )
    records = output / "records.jsonl"
    console.print(
        f'records: {records}\nlook at them: make inspect DATA=records ARGS="data.records={records}"\n'
        f'train on them: make stage1 ARGS="name=mine data=records data.records={records} gap=reader evaluation.samples=0"'
    )
