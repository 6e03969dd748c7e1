"""The embedded scenes: exact boxes, questions with one answer, and a border between training and evaluation."""

import itertools
import re

import numpy as np
import pytest

from focus.data.boxes import area, intersection
from focus.data.sample import problems_of
from focus.data.scenes import COLOURS, DIFFICULTY, SHAPES, SPLITS, Scene, Scenes, SceneSpec, Sign

LEVELS = sorted(DIFFICULTY)
BORDERS = list(itertools.product(LEVELS, SPLITS))


def scenes_of(level: int, split: str, count: int) -> list[Scene]:
    return [Scene(DIFFICULTY[level], split, index) for index in range(count)]


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(scene.open().reduced(scene.sample().size))


def within(inner, outer) -> bool:
    return intersection(inner, outer) == inner and area(inner) > 0


def part(picture: np.ndarray, box_px) -> np.ndarray:
    x1, y1, x2, y2 = map(int, box_px)
    return picture[y1:y2, x1:x2]


# -------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_equal_arguments_give_equal_layouts_and_equal_pixels(level, split):
    one, two = (Scene(DIFFICULTY[level], split, 7) for _ in range(2))
    first, second = pixels(one), pixels(two)  # pixels of one before, of the other after its layout was asked for
    assert one.signs == two.signs and one.question == two.question
    assert np.array_equal(first, second)
    assert np.array_equal(pixels(one), first)  # and a scene can be opened twice


def test_asking_for_the_question_first_does_not_change_the_pixels():
    asked, drawn = Scene(DIFFICULTY[4], "train", 3), Scene(DIFFICULTY[4], "train", 3)
    asked.sample()
    assert np.array_equal(pixels(asked), pixels(drawn))


@pytest.mark.parametrize("level", LEVELS)
def test_training_and_evaluation_scenes_of_one_index_differ(level):
    for index in range(5):
        train, evaluation = Scene(DIFFICULTY[level], "train", index), Scene(DIFFICULTY[level], "eval", index)
        assert train.signs != evaluation.signs
        assert train.sample().id != evaluation.sample().id
    assert not np.array_equal(pixels(train), pixels(evaluation))


def test_scenes_of_different_indices_differ():
    layouts = {scene.signs for scene in scenes_of(1, "train", 200)}
    assert len(layouts) == 200


# -------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_text_lies_in_the_sign_the_sign_in_its_board_and_the_board_in_the_image(level, split):
    for scene in scenes_of(level, split, 100):
        ((b1, b2, b3),) = scene.sample().boxes
        side = float(scene.spec.side_px)
        assert within(b1, b2) and within(b2, b3) and within(b3, (0.0, 0.0, side, side)), scene
        assert area(b1) < area(b2) < area(b3)
        assert problems_of(scene.sample()) == []


def test_a_long_word_on_a_small_sign_stays_on_it():
    assert problems_of(Scene(DIFFICULTY[5], "train", 359).sample()) == []


@pytest.mark.parametrize("level", LEVELS)
def test_letters_are_never_smaller_than_the_spec_says(level):
    spec = DIFFICULTY[level]
    assert all(sign.letter_px >= spec.letter_px[0] for scene in scenes_of(level, "train", 100) for sign in scene.signs)


def test_signs_that_no_text_fits_are_an_error_that_says_what_to_raise():
    with pytest.raises(ValueError, match=r"no text of 10 px letters fits on a sign \d+ px wide; raise data\.side_px"):
        _ = Scene(SceneSpec(side_px=112, sign_side=(0.05, 0.06)), "train", 0).signs


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_boards_do_not_overlap(level, split):
    for scene in scenes_of(level, split, 60):
        assert len(scene.signs) == scene.spec.signs
        for one, two in itertools.combinations(scene.signs, 2):
            assert area(intersection(one.board_px, two.board_px)) == 0


def test_more_signs_than_fit_are_an_error_that_says_what_to_lower():
    with pytest.raises(ValueError, match=r"4 signs .* do not fit into a scene; lower data\.difficulty"):
        _ = Scene(SceneSpec(signs=4, sign_side=(0.6, 0.7)), "train", 0).signs


# ---------------------------------------------------------------------------------------------------------------- ink


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_text_box_is_exactly_the_ink_and_nowhere_else_on_the_sign_is_any(level, split):
    for scene in scenes_of(level, split, 12):
        picture = pixels(scene).astype(int)
        for sign in scene.signs:
            outside = picture.copy()
            part(outside, sign.text_px)[:] = sign.fill  # blot the text box out: what is left of the sign must be blank
            left = {tuple(colour) for colour in np.unique(part(outside, sign.sign_px).reshape(-1, 3), axis=0).tolist()}
            assert left <= {sign.fill, sign.board}
            assert {tuple(c) for c in np.unique(part(outside, sign.board_px).reshape(-1, 3), axis=0).tolist()} <= {sign.fill, sign.board}
            ink = np.abs(part(picture, sign.text_px) - sign.fill).max(axis=2) > 0
            assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()


@pytest.mark.parametrize("split", SPLITS)
def test_text_stands_out_from_its_sign(split):
    for scene in scenes_of(3, split, 12):
        picture = pixels(scene).astype(int)
        for sign in scene.signs:
            contrast = np.abs(part(picture, sign.text_px) - np.asarray(sign.fill)).sum(axis=2).max()
            assert contrast > 255  # of 765


def height_of_ink(scene: Scene) -> int:
    sign = scene.signs[scene.question[1]]
    ink = np.abs(part(pixels(scene).astype(int), sign.board_px) - sign.fill).max(axis=2) > 0
    ink &= np.abs(part(pixels(scene).astype(int), sign.board_px) - sign.board).max(axis=2) > 0
    rows = np.flatnonzero(ink.any(axis=1))
    return int(rows[-1] - rows[0] + 1)


@pytest.mark.parametrize("split", SPLITS)
def test_the_asked_text_is_a_few_pixels_tall(split):
    heights = [height_of_ink(scene) for scene in scenes_of(1, split, 60)]
    assert min(heights) >= 8 and max(heights) <= 18


def test_the_asked_text_is_at_most_18_pixels_tall():
    # letter_px, at most 16 here, is the nominal height of an 8: hinting and other digits (STIXGeneralBol) add up to 2 px
    boxes = [scene.signs[scene.question[1]].text_px for scene in scenes_of(1, "train", 600)]
    assert max(y2 - y1 for _, y1, _, y2 in boxes) <= 18


@pytest.mark.parametrize("split", SPLITS)
def test_a_sign_has_the_colour_and_the_shape_that_questions_call_it_by(split):
    for scene in scenes_of(3, split, 12):
        picture = pixels(scene).astype(int)
        for sign in scene.signs:
            x1, y1, x2, _ = map(int, sign.sign_px)
            seen = picture[y1 + 2, (x1 + x2) // 2]  # just below the top of the sign: inside every shape, above every text
            assert min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum()) == sign.colour
            corner_is_board = (picture[y1, x1] == sign.board).all()
            share = (part(picture, sign.sign_px) == sign.board).all(axis=2).mean()  # what the shape leaves free of its box
            expected = {"square": 0, "round": 1 - np.pi / 4, "diamond": 0.5}[sign.shape]
            assert corner_is_board == (sign.shape != "square")
            assert share == pytest.approx(expected, abs=0.06)


# ----------------------------------------------------------------------------------------------------------- questions


def centre(sign: Sign) -> tuple[float, float]:
    return ((sign.sign_px[0] + sign.sign_px[2]) / 2, (sign.sign_px[1] + sign.sign_px[3]) / 2)


def apart(one: Sign, two: Sign) -> float:
    return float(np.hypot(centre(one)[0] - centre(two)[0], centre(one)[1] - centre(two)[1]))


def signs_that_fit(question: str, signs: tuple[Sign, ...]) -> list[int]:
    """Read the question as a person would, and list every sign that it could mean."""
    if near := re.fullmatch(r"What is on the sign nearest to the (\w+) one\?", question):
        anchors = [i for i, sign in enumerate(signs) if sign.colour == near[1]]
        assert len(anchors) == 1
        distances = {i: apart(sign, signs[anchors[0]]) for i, sign in enumerate(signs) if i != anchors[0]}
        return [i for i, distance in distances.items() if distance < min(distances.values()) + 4]  # 4 px are no visible difference
    word = re.fullmatch(r"What is on the (\w+) sign\?", question)[1]
    if word in COLOURS or word in SHAPES:
        return [i for i, sign in enumerate(signs) if word in (sign.colour, sign.shape)]
    axis, direction = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[word]
    along = [direction * centre(sign)[axis] for sign in signs]
    return [i for i, place in enumerate(along) if place < min(along) + 4]


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_exactly_one_sign_fits_the_question_and_its_text_is_the_answer(level, split):
    for scene in scenes_of(level, split, 150):
        sample = scene.sample()
        (fitting,) = signs_that_fit(sample.question, scene.signs)
        assert sample.answers == (scene.signs[fitting].text,)
        assert sample.boxes[0][1] == scene.signs[fitting].sign_px


@pytest.mark.parametrize("level", LEVELS)
def test_every_kind_of_question_of_a_level_is_asked_and_no_other(level):
    def kind(question: str) -> str:
        word = re.fullmatch(r"What is on the (?:(\w+) sign|sign nearest.*)\?", question)[1]
        return "relation" if word is None else "colour" if word in COLOURS else "shape" if word in SHAPES else "place"

    assert {kind(scene.question[0]) for scene in scenes_of(level, "train", 150)} == set(DIFFICULTY[level].asks)


def test_a_spec_that_no_question_fits_says_what_to_change():
    with pytest.raises(ValueError, match="asks"):
        for index in range(50):
            _ = Scene(SceneSpec(signs=6, asks=("shape",), sign_side=(0.1, 0.12)), "train", index).question


def test_answers_follow_the_spec():
    for scene in scenes_of(1, "train", 100):
        assert all(re.fullmatch(r"[1-9]\d", sign.text) for sign in scene.signs)
    words = {sign.text for split in SPLITS for scene in scenes_of(4, split, 40) for sign in scene.signs if not sign.text.isdigit()}
    assert words <= {*SPLITS["train"].words, *SPLITS["eval"].words} and len(words) > 10


# --------------------------------------------------------------------------------------------------------------- twins


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_a_twin_differs_in_the_asked_text_and_in_no_other_pixel(level, split):
    for scene in scenes_of(level, split, 4):
        twin = scene.twin()
        one, two = scene.sample(), twin.sample()
        assert (one.question, one.size, one.boxes[0][1:], one.group) == (two.question, two.size, two.boxes[0][1:], two.group)
        assert two.id != one.id and problems_of(two) == []
        changed = np.abs(pixels(scene).astype(int) - pixels(twin)).max(axis=2) > 0
        assert part(changed, one.boxes[0][0]).any() and part(changed, two.boxes[0][0]).any()
        part(changed, one.boxes[0][0])[:] = False
        part(changed, two.boxes[0][0])[:] = False
        assert not changed.any()


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_text_of_a_twin_is_of_the_same_form_in_the_same_place_and_on_no_sign_of_the_scene(level, split):
    for scene in scenes_of(level, split, 30):
        text, sign, other = scene.asked.text, scene.asked, scene.twin().asked
        assert other.text not in {each.text for each in scene.signs} and within(other.text_px, sign.sign_px)
        assert (sign.font, sign.letter_px, sign.fill, sign.sign_px, sign.text_origin[1]) == (
            other.font, other.letter_px, other.fill, other.sign_px, other.text_origin[1]
        )  # fmt: skip
        assert len(other.text) == len(text) if text.isdigit() else other.text in SPLITS[split].words or len(other.text) == 2
        assert abs(sum(sign.text_px[::2]) - sum(other.text_px[::2])) / 2 <= 3  # the middles of the inks


def test_a_scene_has_one_twin_and_that_of_the_twin_is_a_third_text():
    scene = Scene(DIFFICULTY[1], "eval", 3)
    assert scene.twin() == scene.twin() and scene.twin().question == scene.question
    assert scene.twin().twin().asked.text not in {scene.asked.text, scene.twin().asked.text}


# -------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("what", ["photographs", "fonts", "words"])
def test_training_and_evaluation_share_no_photograph_no_font_and_no_word(what):
    train, evaluation = getattr(SPLITS["train"], what), getattr(SPLITS["eval"], what)
    assert train and evaluation and not set(train) & set(evaluation)
    assert len(set(train)) == len(train) and len(set(evaluation)) == len(evaluation)
    assert SPLITS["train"].code != SPLITS["eval"].code


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_uses_only_the_fonts_and_words_of_its_split(split):
    for scene in scenes_of(5, split, 40):
        for sign in scene.signs:
            assert sign.font in SPLITS[split].fonts
            assert sign.text.isdigit() or sign.text in SPLITS[split].words


# ------------------------------------------------------------------------------------------------- sequence and sizes


def test_scenes_are_a_sequence_of_samples_that_ends():
    some = Scenes(DIFFICULTY[1], "train", count=3, start=10)
    assert len(some) == 3
    assert [s.id for s in some] == [Scene(DIFFICULTY[1], "train", index).sample().id for index in (10, 11, 12)]
    for index in (3, 1000, -1):
        with pytest.raises(IndexError):
            some[index]


def test_ids_are_unique_over_splits_levels_and_indices():
    ids = [Scene(spec, split, index).sample().id for spec in DIFFICULTY.values() for split in SPLITS for index in range(20)]
    assert len(set(ids)) == len(ids)


def test_the_demonstration_size_has_the_same_small_text_on_four_times_the_area():
    for index in range(5):
        scene = Scene(SceneSpec(side_px=896), "eval", index)
        assert problems_of(scene.sample()) == []
        assert scene.open().size == scene.sample().size == (896, 896)
        assert height_of_ink(scene) <= 18


def test_an_8k_scene_is_laid_out_at_once_and_can_be_opened():
    laid_out = [Scene(SceneSpec(side_px=7680), "train", index) for index in range(20)]
    assert all(problems_of(scene.sample()) == [] for scene in laid_out)
    assert laid_out[0].sample().open().size == (7680, 7680)
