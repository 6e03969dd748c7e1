"""What a question must be: answered in one place of the page, not told by its own words, and not guessed."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from focus.documents.kinds import Candidate
from focus.documents.page import Page

ELSEWHERE = "its answer stands elsewhere on the page"
TOLD = "its answer stands in the question"
GUESSED = "its answer is what follows the same word on other pages"
FREQUENT = "its answer is that of more than half of its kind"
UNSURE = "the reader was not sure of a word"

Pair = tuple[str, str]  # the keys of two neighbouring words


def fault_of(candidate: Candidate, page: Page, least_confidence: float) -> str:
    """Why a candidate can't be asked; "" if it can."""
    if any(page.words[word].confidence < least_confidence for word in candidate.evidence):
        return UNSURE
    if not candidate.reads:
        return ""
    if set(_words(candidate.answers[0])) & set(_words(candidate.question)):
        return TOLD
    return ELSEWHERE if _stands_elsewhere(candidate, page) else ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _stands_elsewhere(candidate: Candidate, page: Page) -> bool:
    """Whether the words of the answer follow each other in a second place, in the order of lines."""
    wanted = [page.keys[word] for word in candidate.evidence]
    order = [page.keys[word] for line in page.lines for word in line]
    return sum(order[start : start + len(wanted)] == wanted for start in range(len(order) - len(wanted) + 1)) > 1


def pairs_of(page: Page) -> Iterator[Pair]:
    """All neighbours of the lines of a page, each pair once."""
    yield from {(page.keys[a], page.keys[b]) for line in page.lines for a, b in itertools.pairwise(line)}


def guessed(asked: Sequence[Pair], own: set[Pair], seen: Mapping[str, Counter[str]]) -> list[bool]:
    """Whether each pair of anchor and follower is known to one who never sees the page, but the other pages.

    The guess is the most frequent follower of the last word of the anchor. `seen` counts pages by
    follower, for every anchor; `own` are the pairs of this page.
    """
    found = []
    for anchor, follower in asked:
        known: Mapping[str, int] = seen.get(anchor, {}) if anchor else {}  # a question without an anchor names no word
        others = {each: pages - ((anchor, each) in own) for each, pages in known.items()}
        most = max(others.values(), default=0)
        found.append(most > 0 and others.get(follower) == most)
    return found


def count_followers(anchors: set[str], pages: Iterable[Iterable[Pair]]) -> dict[str, Counter[str]]:
    """For every anchor: on how many pages each word follows it."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for pairs in pages:
        for anchor, follower in pairs:
            if anchor in anchors:
                seen[anchor][follower] += 1
    return seen


def surplus(answers: Sequence[str]) -> list[int]:
    """Which questions go, the last first, so that the most frequent answer is right in no more than half. A lone question stays."""
    answer, count = Counter(answers).most_common(1)[0]
    if count == 1:
        return []
    those = [index for index, each in enumerate(answers) if each == answer]
    return those[len(answers) - count :]


def majority_share(answers: Iterable[str]) -> float:
    """The share of questions that the most frequent answer answers."""
    counts = Counter(answers)
    return max(counts.values()) / counts.total()
