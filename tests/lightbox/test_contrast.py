"""Colours that can be told apart: WCAG 2.2 level AA, computed from the style sheets, light and dark."""

import re
from pathlib import Path

import pytest

from focus.lightbox.app import WEB
from focus.report import page

SHEETS = {"lightbox": WEB / "common.css", "report": Path(page.__file__).parent / "templates/style.css"}
GROUNDS = ("paper", "card", "mat", "accent-pale", "right-pale", "wrong-pale")


def colours(sheet: Path) -> dict[str, dict[str, str]]:
    """The variables of a sheet by scheme; dark takes from light what it does not change."""
    light, dark = sheet.read_text().split("@media (prefers-color-scheme: dark)", 1)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", part.split("\n*", 1)[0])) for part in (light, dark)]
    return {"light": found[0], "dark": found[0] | found[1]}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    values = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ratio(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_is_21_and_the_order_does_not_matter():
    assert ratio("#000", "#ffffff") == ratio("#fff", "#000000") == pytest.approx(21)
    assert ratio("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sheet", SHEETS)
def test_text_has_a_ratio_of_4_5_on_every_ground_and_the_edge_of_a_field_3(sheet, scheme):
    of = colours(SHEETS[sheet])[scheme]
    grounds = [ground for ground in GROUNDS if ground in of]
    texts = [text for text in ("ink", "muted", "accent", "right", "wrong") if text in of]
    weak = {
        (text, ground): round(ratio(of[text], of[ground]), 2) for text in texts for ground in grounds if ratio(of[text], of[ground]) < 4.5
    }
    assert len(texts) >= 4 and len(grounds) >= 3 and not weak
    assert ratio(of["paper"], of["accent"]) >= 4.5  # a pressed button
    assert all(ratio(of["edge"], of[ground]) >= 3 for ground in grounds if "edge" in of)  # the report has no fields


def test_no_text_of_the_lightbox_is_faded():
    """`opacity` would take from a ratio that is measured here."""
    faded = [
        (path.name, line)
        for path in WEB.glob("*.css")
        for line in path.read_text().splitlines()
        if re.search(r"[^-]opacity: (0?\.\d)", line)
    ]
    assert faded == []
