"""What the words and numbers of a page mean: the tables of docs/metrics.md and docs/glossary.md."""

import re
from collections.abc import Mapping
from functools import cache

from focus.config import CONF

DOCS = CONF.parent / "docs"
PAGES = ("glossary.md", "metrics.md")
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r" ?\(?\[([^\]]*)\]\([^)]*\)\)?")


@cache
def meanings() -> Mapping[str, str]:
    """The meaning of every word of the glossary, and of every number by its label and by its name.

    Empty where the package lies without its documentation.
    """
    found: dict[str, str] = {}
    for page in PAGES:
        path = DOCS / page
        for line in path.read_text().splitlines() if path.is_file() else ():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
            if len(cells) == 2 or (len(cells) == 3 and page == "metrics.md"):  # word or name, meaning
                words, said = [*CODE.findall(cells[0]), cells[0]], cells[1]
            elif len(cells) == 4:  # label, name, meaning, direction
                words, said = [cells[0], *CODE.findall(cells[1])], cells[2]
            else:
                continue
            found |= dict.fromkeys(words, CODE.sub(r"\1", LINK.sub("", said)))
    return found
