"""The second embedded data: pages of travel documents with exact nested boxes, drawn when needed.

A page is a pure function of (spec, split, index): a letterhead and panels in columns. Four panels
hold numbers that can be asked for (an invoice, departures, a boarding card, a plan); the others hold
text. The question names a number by its label, its line or its colour. The chain of boxes is word
(the ink), line, block, panel. Only the asked number differs between a page and its `twin`.

Training and evaluation share no font, no name, no word of text and no seed. They share the labels,
because questions name them.
"""

from focus.data.pages.page import Page, Pages
from focus.data.pages.spec import DIFFICULTY, KINDS, PageSpec, page_spec

__all__ = ["DIFFICULTY", "KINDS", "Page", "PageSpec", "Pages", "page_spec"]
