"""Supervised transcripts of calls and answers on drawn images, by phases of a curriculum."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from focus.data.boxes import Box, Size, area, intersection, settle, to_view
from focus.data.pages import DIFFICULTY as PAGE_DIFFICULTY
from focus.data.pages import Page
from focus.data.relations import CROP_TOKENS as RELATION_CROP_TOKENS
from focus.data.relations import DIFFICULTY as RELATION_DIFFICULTY
from focus.data.relations import Relation
from focus.data.scenes import DIFFICULTY, Scene, SceneSpec
from focus.data.streets import DIFFICULTY as STREET_DIFFICULTY
from focus.data.streets import Street
from focus.gap import View, cut, resize_to_budget
from focus.model.policy_model import Patches, PolicyModel
from focus.model.positions import mrope_positions
from focus.model.prompts import CROP_CONTENT, answer_text, call_text, encode, observation_text, question_text
from focus.pretraining.pictures import CLASSES, Picture, Target, page_picture, relation_picture, scene_picture, street_picture

ANSWER_WEIGHT = 5.0  # loss weight of an answer's digits: an answer has two, a call twelve, so reading would hardly be learned

CENTRE_NOISE = 0.30  # standard deviation of the box centre, as a share of the sign's side
SIZE_NOISE = 0.35  # standard deviation of the box's log-size, per axis
DIGITS = 4  # of a number, that the head names
LEVELS = (16, 32, 64, 128, 256)


PREFIX = {"scene": "", "street": "street ", "page": "page ", "relation": "relation "}
TARGETS = {"scene": 2, "street": 3, "page": 4, "relation": 2}  # most questions about one picture
CROP_TOKENS = {"scene": 64, "street": 64, "page": 64, "relation": RELATION_CROP_TOKENS}  # budget of a crop
CLOSE_SCENE = SceneSpec(side_px=112, signs=1, sign_side=(0.6, 0.72))
CLOSE_STREET = replace(STREET_DIFFICULTY[1], side_px=224, signs=(1, 1), sign_side=(0.36, 0.8), clutter=(0, 3))


class Transcript(NamedTuple):
    """One row of a batch."""

    ids: list[int]
    weights: list[float]  # of the next-token loss, one per id; 0 where no token is predicted
    grids: list[tuple[int, int, int]]  # frames, rows, columns of its images, in patches
    looks: list[tuple[int, int, np.ndarray]]  # query position, first token of the image, which of its tokens lie under the evidence


@dataclass
class Batch:
    """Equal-format transcripts, right-padded."""

    ids: Tensor  # [row, token]
    positions: Tensor  # [3, row, token]
    mask: Tensor  # [row, token], True on real tokens
    labels: Tensor  # [row, token], -100 where nothing is learned
    weights: Tensor  # [row, token], of the next-token loss
    pixels: Patches  # of each image once, however many rows show it
    shown: list[int]  # images in the order of their placeholders in `ids`
    evidence: Tensor  # [row, token (query), token (key)] bool: where guided heads should look; all False = no pull
    named: Tensor  # [visual token, 1 + DIGITS]: class of what is under it; the digits of the text, -100 = none legible
    kind: str


def _noisy(box_px: Box, random: np.random.Generator) -> Box:
    """`box_px` with symmetric noise on its centre and log-size."""
    x1, y1, x2, y2 = box_px
    width, height = x2 - x1, y2 - y1
    cx = (x1 + x2) / 2 + random.normal(0, CENTRE_NOISE) * width
    cy = (y1 + y2) / 2 + random.normal(0, CENTRE_NOISE) * height
    width, height = width * np.exp(random.normal(0, SIZE_NOISE)), height * np.exp(random.normal(0, SIZE_NOISE))
    return (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def _about(box_px: Box, grow: np.ndarray, size: Size, least: int) -> Box:
    """The region of a crop that extends a box of the image by `grow` pixels on each side."""
    x1, y1, x2, y2 = box_px
    grown = settle((x1 - grow[0], y1 - grow[1], x2 + grow[2], y2 + grow[3]), size, least)
    assert grown is not None  # the box lies in the image, so its region does too
    return grown


def _tokens_under(box: Box, size: tuple[int, int], region_px: Box, token_px: int) -> np.ndarray:
    """Which merged tokens of an image (of `size`, showing `region_px` of the original) lie under a box of the original."""
    columns, rows = size[0] // token_px, size[1] // token_px
    x1, y1, x2, y2 = region_px
    sx, sy = (x2 - x1) / columns, (y2 - y1) / rows
    under = np.zeros((rows, columns), dtype=bool)
    shared = intersection(box, region_px)
    if area(shared) > 0:
        c1, c2 = int((shared[0] - x1) / sx), int(np.ceil((shared[2] - x1) / sx))
        r1, r2 = int((shared[1] - y1) / sy), int(np.ceil((shared[3] - y1) / sy))
        under[r1 : max(r2, r1 + 1), c1 : max(c2, c1 + 1)] = True
    return under.reshape(-1)


def _names(picture: Picture, size: tuple[int, int], region_px: Box, token_px: int) -> np.ndarray:
    named = np.full(((size[0] // token_px) * (size[1] // token_px), 1 + DIGITS), -100, dtype=np.int64)
    named[:, 0] = 0
    legible = size[0] / (region_px[2] - region_px[0]) > 0.65
    for box_px, name in picture.named:
        named[_tokens_under(box_px, size, region_px, token_px), 0] = name
    texts = np.zeros(len(named), dtype=np.int64)
    for text_px, text in picture.texts:
        under = _tokens_under(text_px, size, region_px, token_px)
        texts += under
        inside = area(intersection(text_px, region_px)) > 0.95 * area(text_px)
        if legible and inside and text.isdigit():
            named[under, 1 : 1 + len(text)] = [int(digit) for digit in text[:DIGITS]]
    named[texts > 1, 1:] = -100  # two numbers under one token
    return named


NAMES = CLASSES + 10 * DIGITS


@dataclass
class Phase:
    """One stretch of the curriculum. Shares of levels and formats; `tight` is how far crops shrink towards the text."""

    samples: int
    direct: float = 0.0
    levels: tuple[float, ...] = ()
    tight: tuple[float, float] = (0.0, 0.0)
    glance: float = 0.0  # share of batches without text, for the naming loss alone
    air: float = 24.0  # largest margin around the text in such a batch, in pixels
    pages: float = 0.0  # share of batches with pages
    streets: float = 0.0  # share of batches with streets
    relations: float = 0.0  # share of batches with relations; all others have scenes


class Transcripts(IterableDataset):
    """Endless batches of transcripts; batch i is a pure function of (phases, i), so training resumes anywhere."""

    def __init__(self, policy: PolicyModel, levels: Sequence[int], phases: tuple[Phase, ...], rows: int, start: int = 0) -> None:
        self.policy, self.levels, self.phases, self.rows, self.start = policy, tuple(levels), phases, rows, start

    def phase(self, index: int) -> tuple[Phase, float]:
        done = index * self.rows
        for phase in self.phases:
            if done < phase.samples:
                return phase, done / phase.samples
            done -= phase.samples
        return self.phases[-1], 1.0

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        step, offset = (worker.num_workers, worker.id) if worker else (1, 0)
        index = self.start + offset
        while True:
            yield self.batch(index)
            index += step

    def batch(self, index: int) -> Batch:
        random = np.random.default_rng([7, index])
        phase, progress = self.phase(index)
        world = self._world(phase, random)
        if phase.glance == 1 or (phase.glance and random.random() < phase.glance):
            return self._glances(index, random, phase.air, world)
        difficulty = self.levels[int(random.integers(len(self.levels)))]
        direct = random.random() < phase.direct
        level = LEVELS[int(random.choice(len(LEVELS), p=phase.levels))]
        tight = phase.tight[0] + (phase.tight[1] - phase.tight[0]) * progress
        rows: list[Transcript] = []
        images: list[Image.Image] = []
        named: list[np.ndarray] = []
        shown: list[int] = []
        picture_index = index * self.rows
        while len(rows) < self.rows:
            picture = _picture(world, difficulty, picture_index)
            picture_index += 1
            view = resize_to_budget(picture.original, level, self.policy.token_px)
            whole = (0.0, 0.0, float(picture.original.size[0]), float(picture.original.size[1]))
            named.append(_names(picture, view.size, whole, self.policy.token_px))
            images.append(view.image)
            seen = len(images) - 1
            for pick in random.permutation(len(picture.targets))[: TARGETS[world]]:
                if len(rows) < self.rows:
                    before = len(images)
                    budget = 0 if direct else CROP_TOKENS[world]
                    rows.append(self._row(picture, view, picture.targets[pick], budget, tight, random, images, named))
                    shown += [seen, *range(before, len(images))]
        kind = f"{PREFIX[world]}{'direct' if direct else 'crop'}@{level}"
        return _collate(rows, self.policy.pack(images), shown, np.concatenate(named), self.policy, kind)

    def _world(self, phase: Phase, random: np.random.Generator) -> str:
        """What a batch shows. A phase of scenes alone draws no number, so that its batches stay what they were."""
        if not phase.pages and not phase.streets and not phase.relations:
            return "scene"
        drawn = random.random()
        for world, share in (("page", phase.pages), ("street", phase.streets), ("relation", phase.relations)):
            if drawn < share:
                return world
            drawn -= share
        return "scene"

    def _glances(self, index: int, random: np.random.Generator, air: float, world: str) -> Batch:
        images: list[Image.Image] = []
        named: list[np.ndarray] = []
        k = 20_000_000 + index * 4 * self.rows
        while len(images) < 4 * self.rows:
            picture = _close(world, self.levels[0], k)
            k += 1
            for text_px, _ in picture.texts[: 4 * self.rows - len(images)]:
                box_px = _about(text_px, random.uniform(0, air, 4), picture.original.size, self.policy.token_px)
                crop = cut(picture.original, box_px, picture.original.size, CROP_TOKENS[world], self.policy.token_px)
                images.append(crop.image)
                named.append(_names(picture, crop.size, box_px, self.policy.token_px))
        none = torch.zeros(0)
        kind = f"{PREFIX[world]}glance"
        return Batch(none, none, none, none, none, self.policy.pack(images), [], none, torch.from_numpy(np.concatenate(named)), kind)

    def _row(
        self,
        picture: Picture,
        view: View,
        target: Target,
        budget: int,
        tight: float,
        random: np.random.Generator,
        images: list[Image.Image],
        named: list[np.ndarray],
    ) -> Transcript:
        """One call for each place of the target with crops of `budget` tokens, or none with 0; then the answer."""
        c, dialect, original = self.policy, self.policy.dialect, picture.original
        whole = (0.0, 0.0, float(original.size[0]), float(original.size[1]))
        grids = [(1, view.size[1] // c.token_px * c.merge, view.size[0] // c.token_px * c.merge)]
        ids = encode(c.tokenizer, question_text(dialect, target.question), [view.tokens])
        learned = [0.0] * len(ids)
        looks: list[tuple[int, int, np.ndarray]] = []
        pad = c.image_pad_id
        first = ids.index(pad)
        read: list[tuple[View, Box, int]] = []  # of each place: the image that it is read in, what that shows, and its first token
        for number, place in enumerate(target.places if budget else ()):
            box_px: Box | None = None
            while box_px is None:
                box_px = settle(_noisy(place.between(random), random), original.size, 28)
            spoken = to_view(box_px, dialect.frame, view.size, original.size)
            call = c.tokenizer.encode(call_text(spoken), add_special_tokens=False)
            under = _tokens_under(place.inner_px, view.size, whole, c.token_px)
            looks += [(len(ids) - 1 + k, first, under) for k in range(len(call))]
            ids += call
            learned += [1.0] * len(call)
            if random.random() < tight:
                box_px = _about(place.text_px, random.uniform(0, 12, 4), original.size, 28)
            crop = cut(original, box_px, original.size, budget, c.token_px)
            images.append(crop.image)
            named.append(_names(picture, crop.size, box_px, c.token_px))
            grids.append((1, crop.size[1] // c.token_px * c.merge, crop.size[0] // c.token_px * c.merge))
            seen = encode(c.tokenizer, observation_text(dialect, CROP_CONTENT, number, closed=False), [crop.tokens])
            read.append((crop, box_px, len(ids) + seen.index(pad)))
            ids += seen
            learned += [0.0] * len(seen)
        answer = c.tokenizer.encode(answer_text(target.text), add_special_tokens=False)
        said = [1.0] * len(answer)
        at = len(c.tokenizer.encode("<answer>", add_special_tokens=False))
        for place, (shown, region, start) in zip(target.places, read or [(view, whole, first)] * len(target.places), strict=True):
            x1, y1, x2, y2 = place.text_px
            digits = len(place.text)
            for k in range(digits):
                box = (x1 + (x2 - x1) * k / digits, y1, x1 + (x2 - x1) * (k + 1) / digits, y2)
                looks.append((len(ids) - 1 + at + k, start, _tokens_under(box, shown.size, region, c.token_px)))
                said[at + k] = ANSWER_WEIGHT
            if not budget:
                looks.append((len(ids) - 1, first, _tokens_under(place.text_px, shown.size, region, c.token_px)))
            at += digits + 1  # and the space
        ids += answer
        learned += said
        return Transcript(ids, learned, grids, looks)


def _picture(world: str, difficulty: int, index: int) -> Picture:
    """A training picture by its number."""
    if world == "page":
        return page_picture(Page(PAGE_DIFFICULTY[difficulty], "train", index))
    if world == "street":
        return street_picture(Street(STREET_DIFFICULTY[difficulty], "train", index))
    if world == "relation":
        return relation_picture(Relation(RELATION_DIFFICULTY[difficulty], "train", index))
    return scene_picture(Scene(DIFFICULTY[difficulty], "train", index))


def _close(world: str, difficulty: int, index: int) -> Picture:
    """A training picture for glances: a page, or a small image with one sign of the usual size in pixels."""
    if world == "page":
        return _picture(world, difficulty, index)
    if world == "street":
        return street_picture(Street(CLOSE_STREET, "train", index))
    return scene_picture(Scene(CLOSE_SCENE, "train", index))


def _collate(rows: Sequence[Transcript], pixels: Patches, shown: list[int], named: np.ndarray, c: PolicyModel, kind: str) -> Batch:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), c.pad_id)
    labels = torch.full((len(rows), length), -100)
    weights = torch.zeros((len(rows), length))
    position_ids = torch.zeros((3, len(rows), length), dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    evidence = torch.zeros((len(rows), length, length), dtype=torch.bool)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        weights[i, :n] = torch.tensor(row.weights)
        labels[i, :n] = torch.where(weights[i, :n] > 0, torch.tensor(row.ids), -100)
        position_ids[:, i, :n] = torch.from_numpy(mrope_positions(row.ids, row.grids, c.image_pad_id, c.merge))
        mask[i, :n] = True
        for query, first, under in row.looks:
            evidence[i, query, first : first + len(under)] |= torch.from_numpy(under)
    return Batch(ids, position_ids, mask, labels, weights, pixels, shown, evidence, torch.from_numpy(named), kind)
