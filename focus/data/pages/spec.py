"""The parts of pages: kinds of panels, labels, levels of difficulty, and the words of each split."""

from collections.abc import Sequence
from dataclasses import dataclass

from focus.data.boxes import Box
from focus.data.drawn import sized

Colour = tuple[int, ...]  # red, green, blue

KINDS = ("invoice", "departures", "card", "plan")
HEADINGS = {"invoice": "Invoice", "departures": "Departures", "card": "Boarding card", "plan": "Plan"}
SUMS = ("Tickets", "Nights", "Total")  # of different units: no reader adds them up
FACTS = ("Invoice no.", "Order no.")
BOXES = ("Gate", "Seat", "Coach", "Deck")
ROOMS: dict[str, Colour] = {
    "red": (240, 170, 160),
    "green": (176, 214, 164),
    "blue": (160, 196, 236),
    "yellow": (250, 226, 140),
}
NOTES = ("Notes", "Terms", "Luggage", "Dear guest", "On board")
CELL_PX = 224  # a page has one panel for about every CELL_PX of its side in each direction


@dataclass(frozen=True)
class Words:
    """Names and sentences that only one split, training or evaluation, may use."""

    firms: tuple[str, ...]
    places: tuple[str, ...]
    sentences: tuple[str, ...]


WORDS = {
    "train": Words(
        firms=("Northern Lines", "Harbour Travel", "Silver Coach", "River and Rail", "Castle Tours", "Ocean Ferries", "Valley Express"),
        places=("Bremen", "Dover", "Oslo", "Lyon", "Porto", "Riga", "Genoa", "Cork", "Malmo", "Ghent", "Turku", "Basel"),
        sentences=(
            "We thank you for your booking and wish you a pleasant journey.",
            "Please keep this page until the end of your travel.",
            "Bags may be left at the desk near the main hall.",
            "Children need a seat of their own.",
            "Changes are free before noon.",
            "Bring a valid pass to every gate.",
            "Meals can be ordered on deck.",
            "The crew will help with heavy cases.",
            "Dogs stay in the rear coach.",
        ),
    ),
    "eval": Words(
        firms=("Southern Cross", "Summer Routes", "Planet Trains", "Feather Air", "Lemon Bus"),
        places=("Trieste", "Bergen", "Nantes", "Vigo", "Gdansk", "Leeds"),
        sentences=(
            "Passengers should arrive early since doors close shortly before departure.",
            "Tickets remain valid within one month.",
            "Refunds require written notice.",
            "Bicycles travel separately.",
            "Quiet zones offer working tables and wireless service.",
            "Snacks are sold throughout.",
            "Staff carry official badges.",
        ),
    ),
}


@dataclass(frozen=True)
class PageSpec:
    """How a page is made. Lengths are native pixels.

    `letter_px` is the range of the nominal height of an asked digit; labels are a fifth smaller.
    `lines` is the number of departures. With `shuffled` lines and labels have any order, so that a
    label must be read. With `written` times and sums are written out: 14:35, 84.50.
    """

    side_px: int = 448
    letter_px: tuple[int, int] = (10, 13)
    digits: tuple[int, int] = (2, 2)
    lines: int = 3
    shuffled: bool = False
    written: bool = False


# Level 1 is what the embedded policy for pages was trained on; every level adds a distinction to make.
DIFFICULTY: dict[int, PageSpec] = {
    1: PageSpec(),
    2: PageSpec(digits=(2, 3), lines=4),
    3: PageSpec(digits=(2, 3), lines=4, shuffled=True),
    4: PageSpec(digits=(2, 4), lines=4, shuffled=True, written=True, letter_px=(9, 11)),
    5: PageSpec(digits=(3, 4), lines=5, shuffled=True, written=True, letter_px=(8, 9)),
}


def page_spec(difficulty: int, letter_px: Sequence[int] | None, side_px: int) -> PageSpec:
    """The spec of a level of difficulty, with `letter_px` and `side_px` replaced."""
    return sized(DIFFICULTY[difficulty], letter_px, side_px)


@dataclass(frozen=True)
class Word:
    """One drawn text. `text_px` is its ink, `origin` where drawing starts, both in pixels of the original."""

    text: str
    font: str
    letter_px: int
    ink: Colour
    origin: tuple[float, float]
    text_px: Box


@dataclass(frozen=True)
class Text:
    """Sentences that fill a box; they are set when the page is drawn. `pitch` is the distance of two lines."""

    sentences: tuple[str, ...]
    box_px: Box
    letter_px: int
    pitch: float
    ink: Colour


@dataclass(frozen=True)
class Shape:
    """A rectangle; the frame lies inside its box."""

    box_px: Box
    fill: Colour | None = None
    frame: Colour | None = None


@dataclass(frozen=True)
class Field:
    """A number that can be asked for. `anchor` is where it is aligned: left, centre or right."""

    question: str
    word: Word
    anchor: str
    line_px: Box
    block_px: Box


@dataclass(frozen=True)
class Panel:
    """One panel of a page; its `kind` is one of KINDS, or empty for a panel of text."""

    kind: str
    box_px: Box
    fields: tuple[Field, ...] = ()
    shapes: tuple[Shape, ...] = ()
    words: tuple[Word, ...] = ()  # labels: all but the numbers of the fields
    texts: tuple[Text, ...] = ()
