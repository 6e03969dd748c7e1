"""Looking at a set before using it: counts worked by hand from tests/support/published.py, and a sheet whose frames lie where boxes do."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from focus.config import CONF
from focus.data.images.original import Decoded, LargeJpeg
from focus.data.readers import TESTS
from focus.data.sample import ImageFile, Sample
from focus.report import survey
from focus.report.picture import CROP_COLOURS
from focus.report.sheet import MARGIN, MOST, PANEL, TILE, TOP, WIDTH, draw_sheet
from focus.runs import inspect
from tests.support.published import WRITERS, edit, write_jsonl

ROOT = Path(__file__).parents[2]


class Inspected:
    """One look at a set: what was printed, what was written."""

    def __init__(self, folder: Path, name: str, *overrides: str, printed: Callable[[], str]) -> None:
        self.output = folder / "look"
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("inspect", [f"data={name}", f"data.cache_dir={folder}/data/{name}", f"output={self.output}", *overrides])
        printed()
        inspect.run(cfg)
        self.said = " ".join(printed().split())
        self.found = json.loads((self.output / "inspect.json").read_text())


@pytest.fixture
def look(tmp_path, capsys) -> Callable[..., Inspected]:
    """Look at a published set, written here and changed by `change` first; or at scenes and records, which need no root."""

    def looked(name: str, *overrides: str, change: Callable[[Path], object] | None = None) -> Inspected:
        root = tmp_path / "published" / name
        if name in WRITERS:
            if not root.is_dir():
                root.mkdir(parents=True)
                WRITERS[name](root)
            if change:
                change(root)
            overrides = (f"data.root={root}", *overrides)
        return Inspected(tmp_path, name, *overrides, printed=lambda: capsys.readouterr().out)

    return looked


def own(folder: Path, *changes: dict) -> str:
    """Records of our own, one for each change, about pictures of 100 x 80 px that are there; returns the override that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, change in enumerate(changes):
        Image.new("RGB", (100, 80), (number, 90, 90)).save(folder / f"{number}.png")
        row = {"schema": 1, "id": f"own/{number}", "source": "own", "split": "mine", "image": f"{number}.png", "width": 100, "height": 80}
        rows.append(row | {"question": "What is it?", "answers": ["a dog"]} | change)
    write_jsonl(folder / "records.jsonl", rows)
    return f"data.records={folder / 'records.jsonl'}"


def of_two(letter: str) -> dict:
    return {"scorer": "letter", "answers": [letter], "options": [{"key": "A", "text": "left"}, {"key": "B", "text": "right"}]}


# -------------------------------------------------------------------------------------------------------------- counting


def test_everything_is_counted_as_it_stands_in_the_files(look):
    found = look("vstar").found
    assert (found["questions"], found["groups"], found["published"]) == (3, 3, "191 rows: 115 direct_attributes, 76 relative_position")
    assert found["fields"]["split"] == {"test": 3} and found["fields"]["scorer"] == {"letter": 3}
    assert found["fields"]["answer_type"] == {"mcq": 3}
    assert found["meta"]["category"] == {"direct_attributes": 2, "relative_position": 1}
    assert found["options"] == {"2": 1, "4": 2} and found["letters"] == {"A": 1, "B": 1, "C": 1}
    assert found["images"] == {
        "distinct": 3,
        "smallest": [100, 80],
        "median": [100, 80],
        "largest": [2000, 1500],
        "megapixels": [0.008, 0.008, 3.0],
    }
    assert found["boxes"]["questions"] == 3 and found["boxes"]["targets"] == {"1": 2, "2": 1} and found["boxes"]["levels"] == {"1": 4}
    # areas: 155 x 157 of 2000 x 1500; 20 x 30, 10 x 20 and 25 x 15 of 100 x 80 px
    assert found["boxes"]["evidence_share"] == pytest.approx([155 * 157 / 3e6, (200 + 375) / 2 / 8000, 600 / 8000])
    assert found["characters"] == [30, 34, 50]
    assert found["reading"] == {"dropped": {}, "notes": {}, "first": {}} and found["broken"] == {}


def test_all_that_was_counted_is_also_said(look):
    said = look("vstar").said
    for part in (
        "questions 3; published: 191 rows: 115 direct_attributes, 76 relative_position",
        "split test 3",
        "category direct_attributes 2, relative_position 1",
        "options 1 question with 2 options, 2 questions with 4 options",
        "A ████████ 1 (33%)",
        "smallest 100 × 80 px (0.008 Mpx)",
        "largest 2000 × 1500 px (3 Mpx)",
        "3 of 3 questions have boxes: 2 questions with 1 target, 1 question with 2 targets; 4 targets with 1 level; B1 covers",
        "30 to 50 characters, median 34",
        "sheet.png",
        "inspect.json",
    ):
        assert part in said, part


@pytest.mark.parametrize("name", WRITERS)
def test_every_set_can_be_looked_at(look, name):
    looked = look(name)
    assert looked.found["questions"] == len(looked.found["pictures"]) > 0
    assert (looked.output / "sheet.png").stat().st_size > 1000


def test_rows_that_were_dropped_are_counted_in_the_file_too(look):
    found = look("vstar", change=lambda root: edit(root / "test_questions.jsonl", lambda rows: rows[1].update(label="Z"))).found
    assert found["questions"] == 2 and list(found["reading"]["dropped"].values()) == [1]
    assert "test_questions.jsonl, row 2" in next(iter(found["reading"]["first"].values()))


def test_a_set_whose_answer_is_always_at_a_is_seen_at_a_glance(look):
    said = look("vstar", change=lambda root: edit(root / "test_questions.jsonl", lambda rows: [row.update(label="A") for row in rows])).said
    assert "A ████████████████████████ 3 (100%) every answer is A: a policy that always says A is right" in said


def test_a_favourite_letter_is_told_from_chance(tmp_path, look):
    # of 100 questions with two options 50 +- 5 by chance: 60 are two deviations away, 75 are five
    def said(right: int) -> str:
        return look("records", own(tmp_path / str(right), *map(of_two, "A" * right + "B" * (100 - right)))).said

    assert "always answering" not in said(60)
    assert "A is right in 75%, a guess in 50%: always answering A pays" in said(75)


def test_fields_that_name_the_question_are_no_kinds_of_question(tmp_path, look):
    changes = [{"meta": {"category": "ab"[number % 2], "native": f"row {number}", "pages": [1, 2]}} for number in range(40)]
    assert look("records", own(tmp_path / "own", *changes)).found["meta"] == {"category": {"a": 20, "b": 20}}


def test_half_a_character_in_a_field_that_only_the_file_has_is_mended(tmp_path, look):
    override, file = own(tmp_path / "own", {"licence": "CC HALF"}), tmp_path / "own/records.jsonl"
    file.write_text(file.read_text().replace("HALF", "\\ud83d"))
    assert look("records", override).found["fields"]["licence"] == {"CC \ufffd": 1}


def test_images_that_several_questions_share_are_counted_once(look):
    found = look("hrbench4k").found
    assert found["questions"] == 8 and found["images"]["distinct"] == 2 and found["groups"] == 2
    assert found["letters"] == {letter: 2 for letter in "ABCD"}


def test_nested_boxes_are_counted_by_level(tmp_path, look):
    chains = [[[10, 10, 20, 20], [5, 5, 40, 40]], [[50, 50, 60, 60]]]
    found = look("records", own(tmp_path / "own", {"boxes": chains}, {})).found
    assert found["boxes"]["questions"] == 1 and found["boxes"]["targets"] == {"2": 1} and found["boxes"]["levels"] == {"1": 1, "2": 1}


def test_derived_boxes_are_marked(look):
    found = look("treevgr_rl", "data.derive_boxes=28").found
    assert found["boxes"]["levels"] == {"3": 4} and found["fields"]["box_origin"] == {"derived": 3}


def test_scenes_are_looked_at_like_any_set(look):
    found = look("scenes", "data.scenes=6", "pictures=2").found
    assert found["questions"] == 6 and found["boxes"]["levels"] == {"3": 6} and found["published"] is None
    assert len(found["pictures"]) == 2 and found["shared"] == {"compared": [], "found": [], "unread": []}


def test_images_shared_with_a_set_that_was_read_before_are_told(look):
    first = look("hrbench4k")
    assert first.found["shared"]["compared"] == first.found["shared"]["found"] == []
    second = look("hrbench8k")  # whose miniature has the same pictures
    assert second.found["shared"]["compared"] == ["hrbench4k"]
    assert "hrbench8k shares 2 images with hrbench4k: 8 of its questions and 8 of theirs" in second.said
    assert "hrbench8k and hrbench4k show the same scenes" in second.said
    assert "shared none; compared with 2 sets read before: hrbench4k, hrbench8k" in look("vstar").said


def test_test_sets_that_were_not_read_are_named_so_that_silence_is_not_taken_for_clean(look):
    others = [name for name in TESTS if name not in ("vstar", "treebench")]
    assert look("treevgr_rl").found["shared"]["unread"] == list(TESTS)
    look("vstar")
    looked = look("treebench")
    assert looked.found["shared"]["unread"] == others and {"infovqa", "docvqa", "textvqa"} < {*others}
    assert f"not compared {', '.join(others)}: test sets that were not read here" in looked.said


def test_pictures_with_their_box_drawn_on_them_are_said_to_match_nothing(look):
    assert "the images of zwz_rl have the box drawn on them" in look("zwz_rl").said


def test_a_neighbour_that_is_no_set_is_one_message(tmp_path, look):
    write_jsonl(tmp_path / "data/mine/records.jsonl", [{"text": "a dog"}])
    with pytest.raises(ValueError, match=r"mine/records\.jsonl, line 1: not a record"):
        look("vstar")


def test_texts_of_a_set_are_printed_as_they_stand(tmp_path, look):
    said = look("records", own(tmp_path / "own", *[{"meta": {"category": "[red]loud[/red] [/]"}}] * 2)).said
    assert "category [red]loud[/red] [/] 2" in said


def test_counting_opens_no_image(tmp_path):
    @dataclass(frozen=True)
    class Closed:
        def open(self):
            raise AssertionError("an image was opened")

    sample = Sample("own/0", "own", "mine", Closed(), 100, 80, "What is it?", ("a dog",))
    assert survey.survey([sample] * 3).questions == 3


# ----------------------------------------------------------------------------------------------------- which are shown


def test_the_questions_on_the_sheet_are_spread_over_the_set():
    for seed in range(20):
        indices = survey.stratified_indices(100, 10, seed)
        assert [place // 10 for place in indices] == list(range(10))
    assert survey.stratified_indices(100, 10, 1) == survey.stratified_indices(100, 10, 1) != survey.stratified_indices(100, 10, 2)


def test_a_small_set_is_shown_whole():
    assert survey.stratified_indices(5, 24, 3) == [0, 1, 2, 3, 4]
    assert survey.stratified_indices(1, 1, 0) == [0]


# --------------------------------------------------------------------------------------------------------- the sheet


@dataclass(frozen=True)
class Grey:
    """A picture in memory, all of one grey; it counts how often it was opened."""

    size: tuple[int, int]
    opened: list

    def open(self) -> Decoded:
        self.opened.append(self)
        return Decoded(Image.new("RGB", self.size, (128, 128, 128)))


def grey(size: tuple[int, int] = (400, 300), opened: list | None = None, **more) -> Sample:
    opened = opened if opened is not None else []
    return Sample("own/0", "own", "mine", Grey(size, opened), *size, "What is it?", ("a dog",), **more)


def near(pixel: tuple[int, ...], colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return all(abs(seen - value) < 60 for seen, value in zip(pixel, wanted, strict=True))


HEAD = 66


def test_boxes_lie_on_the_thumbnail_where_they_lie_in_the_image_each_in_the_colour_of_its_level():
    image = draw_sheet([grey(boxes=(((100, 120, 200, 180), (40, 60, 360, 240)),))], "one").image
    assert image is not None and image.width == WIDTH
    scale = TILE / 400  # 4:3 fills the panel

    def at(x: float, y: float) -> tuple[int, ...]:
        return image.getpixel((int(MARGIN + x * scale), int(HEAD + TOP + y * scale)))

    for x, y in ((98.9, 150), (201, 150), (150, 118.9), (150, 181)):
        assert near(at(x, y), CROP_COLOURS[0])
    for x, y in ((38.9, 150), (361, 150), (200, 58.9), (200, 241)):
        assert near(at(x, y), CROP_COLOURS[1])
    assert at(150, 150) == (128, 128, 128) == at(20, 20)


def test_a_box_too_small_to_be_seen_is_still_shown():
    image = draw_sheet([grey((8000, 6000), boxes=(((4000, 3000, 4001, 3000.5),),))], "one").image
    assert image is not None
    x, y = int(MARGIN + TILE / 2), int(HEAD + TOP + PANEL / 2)
    middle = image.crop((x - 3, y - 3, x + 6, y + 6))
    assert any(near(pixel, CROP_COLOURS[0]) for pixel in middle.getdata())


def test_large_photographs_are_never_decoded_whole(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 3000), (10, 200, 30)).save(path)
    monkeypatch.setattr(LargeJpeg, "_decoded", lambda self: pytest.fail("decoded whole"))
    sample = Sample("own/0", "own", "mine", ImageFile(path), 4000, 3000, "What is it?", ("a dog",), boxes=(((10, 10, 90, 90),),))
    sheet = draw_sheet([sample], "one")
    assert sheet.broken == {} and sheet.image is not None
    assert near(sheet.image.getpixel((round(MARGIN + TILE / 2), round(HEAD + PANEL / 2))), "#0ac81e")


@pytest.mark.parametrize("size", [(3, 900), (2400, 20), (1, 1), (40, 30)])
def test_pictures_of_any_shape_have_a_place(size):
    assert draw_sheet([grey(size)], "one").image is not None


def test_texts_of_any_length_and_script_have_a_place():
    options = tuple((key, "very long indeed " * 20) for key in "ABCDE")
    text = dict(question="x" * 5000 + " \ud800\x00\n", options=options, scorer="letter", answers=("E",))
    samples = [Sample(**(vars(grey()) | text)), Sample(**(vars(grey()) | text | {"question": "招牌是什么颜色？"})), grey()]
    image = draw_sheet(samples, "title " * 200).image
    assert image is not None and image.getpixel((5, image.height - 3)) == (255, 255, 255)


def test_letters_that_the_font_lacks_are_admitted():
    plain, chinese = (draw_sheet([Sample(**(vars(grey()) | {"question": text}))], "one").image for text in ("colour?", "颜色？"))
    assert plain is not None and chinese is not None and chinese.height == plain.height + 20


def test_every_image_is_opened_once():
    opened: list = []
    draw_sheet([grey(opened=opened) for _ in range(9)], "nine")
    assert len(opened) == 9


def test_a_broken_image_costs_its_own_place(tmp_path, look):
    looked = look("records", own(tmp_path / "own", {}, {"image": "gone.png"}, {"height": 60}))
    assert list(looked.found["broken"]) == ["own/1", "own/2"]
    assert "does not exist" in looked.found["broken"]["own/1"] and "the record says 100x60" in looked.found["broken"]["own/2"]
    assert "2 of the 3 images that were opened can't be read (first: own/1: image" in looked.said
    assert (looked.output / "sheet.png").is_file()


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.processes
def test_the_entry_point_starts_beside_pythons_own_inspect_and_says_in_one_message_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "focus.inspect", "data=vstar", f"data.root={tmp_path}/nowhere", "pictures=0", f"output={tmp_path}/x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert all(part in done.stderr for part in ("data.root is", "test_questions.jsonl", "pictures is 0"))
    assert not (tmp_path / "x").exists()


def test_a_set_whose_images_are_all_broken_is_counted_and_then_refused(tmp_path, look):
    with pytest.raises(ValueError, match=r"2 of the 2 images that were opened can't be read \(first: own/0: .*so there is no sheet"):
        look("records", own(tmp_path / "own", {"width": 99}, {"width": 98}))
    assert json.loads((tmp_path / "look/inspect.json").read_text())["questions"] == 2
    assert not (tmp_path / "look/sheet.png").exists()


def test_the_sheet_of_an_earlier_look_does_not_stay(tmp_path, look):
    look("records", own(tmp_path / "own", {}))
    assert (tmp_path / "look/sheet.png").is_file()
    with pytest.raises(ValueError, match="there is no sheet"):
        look("records", own(tmp_path / "own", {"width": 99}))
    assert not (tmp_path / "look/sheet.png").exists()


def test_an_empty_set_is_refused(tmp_path, look):
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"records\.jsonl has no rows"):
        look("records", f"data.records={tmp_path / 'records.jsonl'}")


def test_more_pictures_than_a_sheet_holds_are_refused_before_anything_is_read(tmp_path, look):
    with pytest.raises(ValueError, match=rf"pictures is {MOST + 1}; a contact sheet holds 1 to {MOST}"):
        look("records", own(tmp_path / "own", {}), f"pictures={MOST + 1}")
    assert not (tmp_path / "look").exists()
    assert len(look("records", own(tmp_path / "own", {}), f"pictures={MOST}").found["pictures"]) == 1
    with pytest.raises(ValueError, match="holds 1 to"):
        draw_sheet([], "none")


def test_an_output_folder_that_cannot_be_written_is_said_before_anything_is_read(tmp_path, look):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"can't be written .* choose another with output=FOLDER"):
        look("vstar", f"output={tmp_path}/file/look")
    assert not (tmp_path / "data").exists()
