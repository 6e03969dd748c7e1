"""The text layer of a PDF: words at their ink, whatever the page does; flaws are named, and a layer that lies is not believed."""

import itertools

import numpy as np
import pytest

from focus.documents.folder import chosen_pages
from focus.documents.ink import NO_INK, colours, lies, look
from focus.documents.page import HYPHENATED, Page, lay_out
from focus.documents.pdf import TURNED, UNSURE, BadDocument, open_pdf, render
from focus.documents.spelling import NO_UNICODE, OTHER_SCRIPT, RIGHT_TO_LEFT
from tests.support.pdf import Box, Text, lines, write_pdf


def read(path, number: int = 0, px: int = 842) -> tuple[Page, np.ndarray]:
    with open_pdf(path) as document:
        pixels, words, frames = render(document, number, px)
    return lay_out(look(words, pixels), (pixels.shape[1], pixels.shape[0]), "page", frames), pixels


def texts(page: Page) -> list[str]:
    return [" ".join(page.words[word].text for word in line) for line in page.lines]


def ink_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero((pixels < 128).any(axis=(1, 2))), np.flatnonzero((pixels < 128).any(axis=(0, 2)))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_a_word_stands_at_its_ink_on_a_page_that_is_shown_turned(tmp_path, rotate):
    turn = {0: (100, 700), 90: (300, 300), 180: (400, 200), 270: (200, 500)}[rotate]
    path = write_pdf(tmp_path / "a.pdf", [Text("Total", *turn, 40, turn=rotate)], rotate=rotate)
    page, pixels = read(path)
    [word] = page.words
    assert (word.text, word.flaw) == ("Total", "")
    assert max(abs(a - b) for a, b in zip(word.box_px, ink_box(pixels), strict=True)) <= 1.5


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_text_is_no_word(tmp_path, turn):
    page, _ = read(write_pdf(tmp_path / "a.pdf", [Text("Total", 300, 300, 20, turn=turn)]))
    assert [word.flaw for word in page.words] == [TURNED]


def test_words_of_a_row_form_a_line_and_a_wide_gap_ends_it(tmp_path):
    row = [Text("Rain gauge", 72, 700), Text("12.5 mm", 300, 700), *lines("Snow depth", "Wind speed", top=684)]
    assert texts(read(write_pdf(tmp_path / "a.pdf", row))[0]) == ["Rain gauge", "12.5 mm", "Snow depth", "Wind speed"]


def test_lines_that_follow_closely_form_a_block_and_a_blank_line_ends_it(tmp_path):
    page, _ = read(write_pdf(tmp_path / "a.pdf", [*lines("one two", "three four"), *lines("five six", top=700)]))
    assert page.blocks == ((0, 1), (2,))


def test_the_chain_of_a_word_goes_from_the_word_to_line_block_and_frame(tmp_path):
    framed = [Box(60, 600, 300, 200, (0.9, 0.9, 0.9)), *lines("one two", "three four")]
    page, _ = read(write_pdf(tmp_path / "a.pdf", framed))
    word, line, block, frame = page.chain([page.lines[1][0]])
    assert page.words[page.lines[1][0]].text == "three"
    assert word[0] == line[0] == block[0] and word[1] == line[1] > block[1] and word[2] < line[2] == block[2]
    assert frame == (60.0, 42.0, 360.0, 242.0)  # 842 px for 842 points; y runs down


def test_a_line_of_one_word_adds_no_box(tmp_path):
    page, _ = read(write_pdf(tmp_path / "a.pdf", lines("alone")))
    assert len(page.chain([0])) == 1


def test_the_halves_of_a_hyphenated_word_are_flawed(tmp_path):
    page, _ = read(write_pdf(tmp_path / "a.pdf", lines("The rain gauge is ham-", "pered by the snow")))
    assert [word.text for word in page.words if word.flaw == HYPHENATED] in (["ham-", "pered"], ["ham", "pered"])


def test_a_space_that_pdfium_guesses_between_letters_that_touch_is_none(tmp_path):
    """Letters that are placed one by one in a font that says they are narrower than they are."""
    placed = [Text(letter, 72 + 6.8 * at, 700) for at, letter in enumerate("hound bound") if letter != " "]
    page, _ = read(write_pdf(tmp_path / "a.pdf", placed, advance=300))
    assert page.texts == ("hound", "bound")


def test_words_beside_a_gap_that_may_be_no_space_are_flawed(tmp_path):
    """A dot 0.19 heights from the letters before it, in a line whose space is 0.83 heights wide: is it one word or two?"""
    page, _ = read(write_pdf(tmp_path / "a.pdf", [Text("see", 72, 700), Text("hound", 103, 700), Text(".com", 139, 700)]))
    assert [(word.text, word.flaw) for word in page.words] == [("see", ""), ("hound", UNSURE), (".com", UNSURE)]
    even, _ = read(write_pdf(tmp_path / "b.pdf", [Text("see", 72, 700), Text("hound", 94, 700), Text(".com", 130, 700)]))
    assert len(even.words) == 3 and not any(word.flaw for word in even.words)  # all spaces of the line are narrow


def test_the_mark_of_a_footnote_is_no_part_of_the_word_beside_it(tmp_path):
    marked = [Text("13", 72, 706, 7), Text("Old special names13", 80, 700, 12)]
    page, _ = read(write_pdf(tmp_path / "a.pdf", marked), px=1684)
    assert texts(page) == ["13", "Old special names13"]  # of one size it is one word


def test_a_ligature_is_its_letters(tmp_path):
    for said in ("ﬁ", "fi"):
        page, _ = read(write_pdf(tmp_path / "a.pdf", lines("the Anal report"), unicode={"A": said}))
        assert page.texts == ("the", "final", "report")


@pytest.mark.parametrize(("said", "flaw"), [("א", RIGHT_TO_LEFT), ("ع", RIGHT_TO_LEFT), ("漢", OTHER_SCRIPT), ("\ue000", NO_UNICODE)])
def test_words_whose_letters_can_not_be_used_are_flawed_and_the_others_are_not(tmp_path, said, flaw):
    page, _ = read(write_pdf(tmp_path / "a.pdf", lines("AAAA plain"), unicode={"A": said}))
    assert {word.flaw for word in page.words} == {flaw, ""}
    assert [word.text for word in page.words if not word.flaw] == ["plain"]


def test_a_layer_without_ink_lies(tmp_path):
    page, _ = read(write_pdf(tmp_path / "a.pdf", [Text("one two three", 72, 700, mode=3)]))
    assert {word.flaw for word in page.words} == {NO_INK} and lies(page.words)


@pytest.mark.parametrize(("right", "down"), [(7, 9), (10, 0), (0, 26), (10, 26)], ids=["askew", "a letter", "a line", "both"])
def test_a_layer_that_is_shifted_against_the_ink_lies(tmp_path, right, down):
    """As OCR of another scale leaves it: ink is there, but not where the boxes are."""
    told = (
        "The gap between a coarse view and",
        "the crop is what a policy closes",
        "when it answers a question about",
        "a detail of a large picture",
    )
    shown = lines(*told, size=20, leading=26)
    layer = [Text(item.text, item.x + right, item.y - down, 20, mode=3) for item in shown]
    with open_pdf(write_pdf(tmp_path / "a.pdf", layer)) as document:
        _, words, _ = render(document, 0, 842)
    with open_pdf(write_pdf(tmp_path / "b.pdf", shown)) as document:
        pixels, truth, _ = render(document, 0, 842)
    assert lies(look(words, pixels)) and not lies(look(truth, pixels))


def test_white_words_on_a_dark_ground_have_ink(tmp_path):
    page, _ = read(write_pdf(tmp_path / "a.pdf", [Box(60, 680, 200, 60, (0.1, 0.5, 0.1)), Text("Exit", 72, 700, 30, (1, 1, 1))]))
    [word] = page.words
    assert (word.flaw, word.ink, word.ground) == ("", (), ("green",))


@pytest.mark.parametrize(
    ("rgb", "names"),
    [
        ((255, 0, 0), ("red",)),
        ((0, 0, 255), ("blue",)),
        ((250, 220, 0), ("yellow",)),
        ((0, 0, 0), ()),
        ((255, 255, 255), ()),
        ((128, 128, 128), ()),
        ((0, 255, 255), ("blue", "green")),
        ((255, 0, 255), ("purple", "red")),
    ],
)
def test_a_clear_colour_has_one_name_one_between_two_has_both_and_greys_have_none(rgb, names):
    assert colours(np.array(rgb)) == names


def test_an_encrypted_a_broken_and_an_empty_document_are_named(tmp_path):
    write_pdf(tmp_path / "locked.pdf", lines("one"), password=True)
    (tmp_path / "broken.pdf").write_bytes(write_pdf(tmp_path / "whole.pdf", lines("one")).read_bytes()[:200])
    (tmp_path / "empty.pdf").write_bytes(b"")
    for name, said in (("locked", "needs a password"), ("broken", "damaged"), ("empty", "damaged")):
        with pytest.raises(BadDocument, match=said), open_pdf(tmp_path / f"{name}.pdf"):
            pass


def test_pages_of_a_long_document_are_spread_evenly_and_another_seed_reads_others():
    pages = chosen_pages(10_000, 50, 0, "a.pdf")
    assert len(set(pages)) == 50 and {b - a for a, b in itertools.pairwise(pages)} == {200} and pages[-1] < 10_000
    assert chosen_pages(10_000, 50, 1, "a.pdf") != pages
    assert chosen_pages(3, 50, 0, "a.pdf") == [0, 1, 2]
