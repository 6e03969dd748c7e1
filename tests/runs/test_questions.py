"""From a folder to records that are checked: what is left out is counted with its place, and an interrupted start goes on."""

import itertools
import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from focus.data.boxes import area, intersection
from focus.data.sample import Sample, read_records, write_records
from focus.data.scenes import Scenes, scene_spec
from focus.documents import checks, reading
from focus.documents import folder as folders
from focus.documents.ink import NO_INK
from focus.documents.page import Word
from focus.gap import critical_tokens
from focus.runs import questions, train
from tests.support.pdf import Text, lines, write_pdf
from tests.support.policies import random_qwen3_vl
from tests.support.runs import composed, settings

INVOICE = ("Invoice 4711 for May", "Rain gauge with stand", "Snow depth board", "Total 281.50 due", "Payment within thirty days please")
LETTER = ("Minutes of the meeting", "The chair opened at noon", "Members present were eleven", "Next session follows in autumn")


class Made:
    """One start: what was printed, the counts, the questions."""

    def __init__(self, folder: Path, output: Path, said: str) -> None:
        self.said, self.output = said, output
        self.counts = json.loads((output / "questions.json").read_text())
        self.samples: list[Sample] = list(read_records(output / "records.jsonl")[0])


@pytest.fixture
def make(tmp_path, capsys, monkeypatch):
    """Makes questions from `tmp_path/from`, without OCR."""
    monkeypatch.setattr(questions, "is_installed", lambda: False)
    (tmp_path / "from").mkdir()

    def made(*overrides: str) -> Made:
        cfg = composed(f"folder={tmp_path}/from", "page_px=1200", *overrides, name="questions")
        cfg.output = str(tmp_path / "out")
        capsys.readouterr()
        questions.run(cfg)
        return Made(tmp_path / "from", tmp_path / "out", capsys.readouterr().out)

    made.folder = tmp_path / "from"
    return made


def test_a_document_becomes_records_with_nested_boxes_and_a_critical_view(make):
    write_pdf(make.folder / "a.pdf", lines(*INVOICE, leading=40), lines(*LETTER))
    made = make()
    assert made.counts["pages"] == 2 and len(made.samples) == made.counts["questions"] > 8
    for sample in made.samples:
        original = sample.open()
        assert original.size == sample.size and max(sample.size) == 1200
        [chain] = sample.boxes
        assert all(area(a) < area(b) and intersection(a, b) == a for a, b in itertools.pairwise(chain))
        view = sample.meta["critical_view"]
        assert view["token_px"] == 28 and critical_tokens(sample, 28) == view["tokens"] >= 16  # as gap=reader reads it
        assert sample.group == "a.pdf" and sample.meta["question_type"] == "text layer"
    assert max(len(sample.boxes[0]) for sample in made.samples) == 3
    assert "questions a minute" in made.said and "without a look: right in" in made.said


def test_the_box_of_an_answer_is_the_ink_of_that_word(make):
    write_pdf(make.folder / "a.pdf", [Text("Total 281.50", 100, 500, 16)])
    [sample] = make("shares={after: 1, line_end: 0, place: 0, below: 0, colour: 0, count_digits: 0, yes_no: 0, choice: 0}").samples
    assert (sample.question, sample.answers) == ('Which number comes right after "Total"?', ("281.50",))
    x1, y1, x2, y2 = sample.boxes[0][0]
    grey = sample.open().region((x1, y1, x2, y2)).convert("L")
    rows = [min(grey.crop((0, y, grey.width, y + 1)).tobytes()) for y in range(grey.height)]
    assert min(rows[:2]) < 128 and min(rows[-2:]) < 128  # ink reaches the upper and the lower edge


def test_the_critical_views_are_said_as_their_median_and_range(make):
    """The page has 43 x 30 tokens of 28 px. Its ladder halves them: 1290, 645, 322, 161, 80, 40, 20."""
    # a line of 24 points is about 38 px of 1200: 6.2 px in 40 tokens, 4.4 in 20. One of 12 points is half of that: 6.6 px in 161, 4.4 in 80
    write_pdf(make.folder / "a.pdf", [Text("Total 281.50", 100, 500, 24)], [Text("Invoice 4711 for May", 72, 500, 12)])
    made = make()
    assert made.counts["critical_views"] == {"20": 1, "80": 3}
    assert "no longer shows the answer: a median of 80 visual tokens (20 to 80); gap=reader trains there" in made.said


def test_a_second_start_gives_the_same_records_and_reads_nothing_again(make, monkeypatch):
    write_pdf(make.folder / "a.pdf", lines(*INVOICE, leading=40))
    first = make()
    text = (first.output / "records.jsonl").read_bytes()
    monkeypatch.setattr(questions, "read_piece", lambda *_: pytest.fail("read again"))
    assert (make().output / "records.jsonl").read_bytes() == text


def test_an_interrupted_start_goes_on_and_gives_the_records_of_an_undisturbed_one(make, monkeypatch):
    for name in "ab":
        write_pdf(make.folder / f"{name}.pdf", lines(f"Page of {name}{name}", *INVOICE, leading=40))
    read = reading.read_piece
    calls = []

    def interrupted(piece, *rest):
        calls.append(piece.name)
        if calls == ["a.pdf", "b.pdf"]:
            raise KeyboardInterrupt
        return read(piece, *rest)

    monkeypatch.setattr(questions, "read_piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make()
    pages = make.folder.parent / "out/pages.jsonl"
    pages.write_bytes(pages.read_bytes() + b'{"key": "half')  # what a killed process leaves
    disturbed = (make().output / "records.jsonl").read_bytes()
    assert calls == ["a.pdf", "b.pdf", "b.pdf"]
    for path in disturbed_files(make.folder.parent / "out"):
        path.unlink()
    assert (make().output / "records.jsonl").read_bytes() == disturbed


def disturbed_files(output: Path) -> list[Path]:
    return [path for path in output.iterdir() if path.is_file()]


def test_a_head_that_every_page_has_is_not_asked_for(make):
    body = ("Chapter {} begins", "and ends here")  # two lines of one part of the page: neither is asked for
    heads = [[Text("Annual report", 220, 800), *lines(*(line.format(n) for line in body), top=400)] for n in ("one", "two", "three")]
    write_pdf(make.folder / "a.pdf", *heads)
    with pytest.raises(ValueError, match=f"3 questions: {checks.FREQUENT}"):
        make("shares={after: 0, line_end: 0, place: 1, below: 0, colour: 0, count_digits: 0, yes_no: 0, choice: 0}")


def test_another_seed_asks_other_questions(make):
    write_pdf(make.folder / "a.pdf", lines(*INVOICE, *LETTER, leading=30))
    first = [sample.question for sample in make("questions_per_page=3").samples]
    assert first != [sample.question for sample in make("questions_per_page=3", "seed=1").samples]


def test_what_can_not_be_read_is_counted_with_its_first_place_and_costs_no_other_file(make):
    good = lines(*INVOICE, leading=40)
    write_pdf(make.folder / "good.pdf", good)
    write_pdf(make.folder / "copy.pdf", good)
    write_pdf(make.folder / "locked.pdf", good, password=True)
    (make.folder / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (make.folder / "notes.txt").write_text("notes")
    (make.folder / "moved.jpg").symlink_to("nowhere.jpg")
    (make.folder / "deeper").mkdir()
    Image.new("RGB", (64, 64), "red").save(make.folder / "deeper/photo.png")
    write_pdf(make.folder / "scan.pdf", [])
    write_pdf(make.folder / "lying.pdf", [Text(text, 72, 700 - 40 * n, mode=3) for n, text in enumerate(INVOICE)])
    write_pdf(make.folder / "arabic.pdf", lines("AAAA AAAA"), unicode={"A": "ع"})
    write_pdf(make.folder / "long.pdf", *[lines(f"Chapter {number} begins here") for number in range(5)])
    made = make("pages_per_file=2")
    dropped, first = made.counts["dropped"], made.counts["first"]
    assert {sample.group for sample in made.samples} >= {"copy.pdf", "long.pdf"}
    expected = {
        "documents: it is encrypted and needs a password": (1, "locked.pdf"),
        "documents: it is no PDF, or is damaged": (1, "broken.pdf"),
        folders.OTHER: (1, "notes.txt"),
        folders.NO_FILE: (1, "moved.jpg"),
        folders.BEYOND: (3, "long.pdf"),
        reading.NO_OCR: (1, "deeper/photo.png"),
        reading.NO_TEXT: (1, "scan.pdf page 1"),
        reading.LYING_LAYER: (1, "lying.pdf page 1"),
        reading.NO_WORD: (1, "arabic.pdf page 1"),
        questions.COPY: (1, "good.pdf page 1"),
        "words: a script that is read from right to left": (2, "arabic.pdf page 1: 'عععع'"),
    }
    assert {reason: (dropped.get(reason), first.get(reason)) for reason in expected} == expected
    for reason, (count, place) in expected.items():
        assert f"left out: {count} {reason} (first: {place})" in made.said
    assert not any(NO_INK in reason for reason in dropped)  # counted once, as a page


def test_names_in_another_unicode_form_are_one_name(make):
    name = "Caf\u00e9.pdf"
    write_pdf(make.folder / unicodedata.normalize("NFD", name), lines(*INVOICE, leading=40))
    write_pdf(make.folder / name, lines(*LETTER))
    made = make()
    assert {sample.group for sample in made.samples} == {name}
    assert made.counts["dropped"][folders.SAME_NAME] == 1


@pytest.mark.parametrize("content", ["nothing", "no usable word", "photographs without OCR"])
def test_a_folder_that_gives_no_question_is_an_error_with_the_reasons(make, content):
    if content == "no usable word":
        write_pdf(make.folder / "a.pdf", lines("a", "b"))
    if content == "photographs without OCR":
        Image.new("RGB", (64, 64), "red").save(make.folder / "photo.png")
    said = (
        {
            "nothing": "holds no picture or PDF that can be read (it is empty)",
            "no usable word": "1 pages and pictures without a usable word (first: a.pdf page 1)",
            "photographs without OCR": r"1 pictures; reading them needs OCR: make env-questions \(first: photo.png\)",
        }[content]
        .replace("(", "\\(")
        .replace(")", "\\)")
        .replace("\\\\", "\\")
    )
    with pytest.raises(ValueError, match=said):
        make()


def test_results_inside_of_the_folder_are_not_read_again(make, tmp_path):
    write_pdf(make.folder / "a.pdf", lines(*INVOICE, leading=40))
    cfg = composed(f"folder={make.folder}", "page_px=1200", name="questions")
    cfg.output = str(make.folder / "out")
    for _ in range(2):
        questions.run(cfg)
    assert json.loads((make.folder / "out/questions.json").read_text())["pages"] == 1


class Eyes:
    """An OCR that knows the words of one photograph, and reads them where they are at least 20 px high."""

    TRUTH = (("Exit", (40, 40, 200, 80)), ("north", (220, 40, 400, 80)), ("Gate", (40, 300, 200, 340)), ("seven", (220, 300, 400, 340)))
    SIZE = (896, 896)

    def __init__(self, threads: int) -> None:
        pass

    def read(self, pixels):
        scale = pixels.shape[1] / self.SIZE[0]
        if 40 * scale < 20:
            return []
        return [Word(text, tuple(scale * side for side in box), 40 * scale, confidence=0.99) for text, box in self.TRUTH]


@pytest.fixture
def eyes(monkeypatch):
    monkeypatch.setattr(questions, "is_installed", lambda: True)
    monkeypatch.setattr(questions, "version", lambda name: "1")
    monkeypatch.setattr(questions, "OCR", Eyes)


def test_a_photograph_becomes_records_by_ocr_with_the_view_in_which_ocr_fails(make, eyes):
    photo = Image.new("RGB", Eyes.SIZE, "white")
    photo.save(make.folder / "street.png")
    made = make("least_confidence=0.9")
    assert {sample.question: sample.answers for sample in made.samples}['Which word comes right after "Exit"?'] == ("north",)
    for sample in made.samples:
        # 32 x 32 tokens; 40 px are 20 px in 448 px, which are 256 tokens, and less in the next view
        assert sample.meta["critical_view"] == {"tokens": 128, "token_px": 28} and sample.meta["question_type"] == "OCR"
        assert (made.output / sample.image.path.name).read_bytes() == (make.folder / "street.png").read_bytes()


def test_a_photograph_without_text_is_counted(make, eyes):
    Image.new("RGB", (400, 400), "white").save(make.folder / "wall.png")
    with pytest.raises(ValueError, match=r"1 pages and pictures without a usable word \(first: wall\.png\)"):
        make()


def test_how_well_ocr_reads_pages_with_a_text_layer_is_said(make, eyes):
    """Eyes sees Exit, north, Gate and seven: on a page of 896 px two of them stand where the layer has them."""
    scale = 842 / 896  # points a pixel
    layer = [Text(text, x1 * scale, (896 - y2) * scale, 30) for text, (x1, _, _, y2) in Eyes.TRUTH[:2]]
    layer.append(Text("fence", 40 * scale, (896 - 340) * scale, 30))
    write_pdf(make.folder / "a.pdf", [*layer, *lines("One more line to ask for", top=200)], lines(*LETTER), size=(842, 842))
    made = make("page_px=896", "audit_pages=1", "least_confidence=0.9")
    assert made.counts["ocr"] == {"pages": 1, "words": 3, "right": 2, "boxes": 0, "beside": 1}
    assert "OCR against the text layer of 1 pages: of 3 words that it is sure of 66.7 % are right, 0.0 % of these" in made.said


def test_words_that_ocr_is_not_sure_of_are_counted(make, eyes):
    Image.new("RGB", Eyes.SIZE, "white").save(make.folder / "street.png")
    with pytest.raises(ValueError, match="questions: the reader was not sure of a word"):
        make("least_confidence=0.995")


def test_a_training_with_gap_reader_on_questions_without_critical_views_is_refused(tmp_path):
    random_qwen3_vl(seed=1).save(tmp_path / "policy")
    records = write_records(Scenes(scene_spec(1, None, 224), "train", 2, 0), tmp_path / "records")
    cfg = settings(tmp_path / "run", tmp_path / "policy", "data=records", f"data.records={records}", "gap=reader", "evaluation.samples=0")
    with pytest.raises(ValueError, match=r"gap\.mode is reader, but none of the 2 training questions has a critical view"):
        train.run(cfg)
    assert not (tmp_path / "run").exists()
