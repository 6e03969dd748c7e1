"""Boxes that people drew: exports written by hand from the formats' descriptions, with every number worked out."""

import codecs
import json
import zipfile
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.data.annotations.faults import Fault
from focus.data.annotations.join import write_annotated
from focus.data.annotations.reading import read_annotations
from focus.data.annotations.regions import Annotated, percent_to_px
from focus.data.sample import problems_of, read_records

PROPERTY = settings(deadline=None, database=None)

# On an image of 2000 x 1000 px, one percent is 20 px across and 10 px down.
B1 = (400.0, 300.0, 500.0, 340.0)
B2 = (360.0, 260.0, 600.0, 400.0)
B3 = (200.0, 100.0, 1000.0, 700.0)
FAR = (1500.0, 800.0, 1600.0, 900.0)  # beside all of them
FAR2 = (1400.0, 750.0, 1700.0, 950.0)  # around FAR


# ---------------------------------------------------------------------------------------------------- exports, by hand


def drawn(name: str, box_px: tuple, *labels: str, size=(2000, 1000), rotation=0, **more) -> dict:
    """A rectangle of Label Studio: percent of the image, x, y, width and height."""
    (x1, y1, x2, y2), (width, height) = box_px, size
    value = {
        "x": x1 / width * 100,
        "y": y1 / height * 100,
        "width": (x2 - x1) / width * 100,
        "height": (y2 - y1) / height * 100,
        "rotation": rotation,
        "rectanglelabels": list(labels),
    }
    return {
        "id": name,
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
        **more,
    }


def relation(inner: str, outer: str, direction: str = "right") -> dict:
    return {"type": "relation", "from_id": inner, "to_id": outer, "direction": direction}


def answer(name: str, question: str, kind: str, said: object) -> dict:
    """An answer that Label Studio's `perRegion` controls give for one region; it repeats the region's id."""
    return {"id": name, "type": kind, "from_name": question, "to_name": "image", "value": {{"textarea": "text"}.get(kind, kind): said}}


def task(*results: dict, question_id: object = 7, image: str = "/data/upload/3/0a1b2c3d-a.jpg", number: int = 1, **annotation) -> dict:
    data = {"image": image} | ({} if question_id is None else {"question_id": question_id})
    return {
        "id": number,
        "data": data,
        "annotations": [{"id": number * 10, "was_cancelled": False, "ground_truth": False, "result": list(results), **annotation}],
        "predictions": [],
    }


NESTED = (drawn("r3", B3, "B3"), drawn("r1", B1, "B1"), drawn("r2", B2, "B2"))  # not in order: an export keeps the order of drawing


def cvat_box(box_px: tuple, label: str = "evidence", attributes: dict | None = None, **more) -> str:
    corners = zip(("xtl", "ytl", "xbr", "ybr"), box_px, strict=True)
    own = " ".join(f"{key}={quoteattr(str(value))}" for key, value in [("label", label), ("occluded", 0), *corners, *more.items()])
    inside = "".join(f"<attribute name={quoteattr(key)}>{value}</attribute>" for key, value in (attributes or {}).items())
    return f"<box {own}>{inside}</box>"


def cvat_image(*shapes: str, name: str = "images/a.jpg", size=(2000, 1000)) -> str:
    return f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{"".join(shapes)}</image>'


def cvat(*images: str, head: str = '<?xml version="1.0" encoding="utf-8"?>') -> str:
    return f"{head}<annotations><version>1.1</version><meta><task><name>t</name></task></meta>{''.join(images)}</annotations>"


def coco_box(number: int, box_px: tuple, category: int = 1, image: int = 5, **attributes) -> dict:
    x1, y1, x2, y2 = box_px
    bbox = [x1, y1, x2 - x1, y2 - y1]
    shape = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
    return shape | ({"attributes": attributes} if attributes else {})


def coco(*annotations: dict, images: list[dict] | None = None) -> dict:
    return {
        "info": {},
        "licenses": [],
        "images": images or [{"id": 5, "width": 2000, "height": 1000, "file_name": "train/a.jpg"}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "sign", "supercategory": ""}, {"id": 2, "name": "B2"}, {"id": 3, "name": "text"}],
    }


@pytest.fixture
def read(tmp_path):
    """Write an export and read it."""

    def written(export: object, repair: bool = False):
        return read_annotations(saved(tmp_path / "export", export), repair)

    return written


def saved(path: Path, export: object) -> Path:
    path.write_bytes(export if isinstance(export, bytes) else (export if isinstance(export, str) else json.dumps(export)).encode())
    return path


def only(found: tuple) -> Annotated:
    (annotated,), counted, first = found
    assert not counted and not first
    return annotated


GOOD = task(*NESTED, question_id="good", number=99)  # an export that leaves nothing is an error; with this one it is not


def refused(found: tuple, fault: Fault) -> str:
    """The question beside GOOD was dropped for this alone; returns where."""
    annotated, counted, first = found
    assert [each.question_id for each in annotated] == ["good"]
    assert counted == {fault: 1}
    return first[fault]


def near(*chains: tuple) -> tuple:
    """Percent leave the last binary digit open."""
    return tuple(tuple(pytest.approx(box_px, abs=1e-9) for box_px in chain) for chain in chains)


# -------------------------------------------------------------------------------------------------------- Label Studio


def test_percent_of_label_studio_become_pixels_and_the_label_says_the_level(read):
    value = {"x": 20, "y": 30, "width": 5, "height": 4, "rotation": 0, "rectanglelabels": ["B1"]}  # 400, 300, 100 x 40 px
    outer = {"x": 18, "y": 26, "width": 12, "height": 14, "rotation": 0, "rectanglelabels": ["B2"]}  # 360, 260, 240 x 140 px
    annotated = only(read([task(drawn("o", B2) | {"value": outer}, drawn("i", B1) | {"value": value})]))
    assert annotated.chains == (((400, 300, 500, 340), (360, 260, 600, 400)),)
    assert annotated.labels == (("B1", "B2"),)
    assert (annotated.question_id, annotated.image, annotated.size, annotated.rule) == ("7", "a.jpg", (2000, 1000), "level")


@given(st.tuples(*[st.integers(0, 9000)] * 4), st.integers(1, 9000), st.integers(1, 9000))
@PROPERTY
def test_pixels_to_percent_and_back_are_the_same_pixels(corners, width, height):
    x1, x2 = sorted(min(each, width) for each in corners[:2])
    y1, y2 = sorted(min(each, height) for each in corners[2:])
    percent = (x1 * 100 / width, y1 * 100 / height, (x2 - x1) * 100 / width, (y2 - y1) * 100 / height)
    assert percent_to_px(*percent, (width, height)) == pytest.approx((x1, y1, x2, y2), abs=1e-8)


def test_the_whole_image_in_percent_is_exactly_the_image():
    assert percent_to_px(0, 0, 100, 100, (4031, 3023)) == (0, 0, 4031, 3023)


@pytest.mark.parametrize(
    "links",
    [
        [relation("a", "b"), relation("b", "c")],
        [relation("b", "a", "left"), relation("b", "c")],  # the arrow's head is at its first end
    ],
    ids=["to the right", "to the left"],
)
def test_relations_lead_from_the_inner_to_the_outer_box(read, links):
    annotated = only(read([task(drawn("c", B3, "scene"), drawn("a", B1, "text"), drawn("b", B2, "sign"), *links)]))
    assert annotated.chains == near((B1, B2, B3))
    assert annotated.labels == (("text", "sign", "scene"),)
    assert annotated.rule == "link"


def test_a_parent_in_the_region_tree_is_a_link(read):
    annotated = only(read([task(drawn("b", B2, "sign"), drawn("a", B1, "text", parentID="b"))]))
    assert (annotated.chains, annotated.rule) == (near((B1, B2)), "link")


def test_each_tree_of_links_is_a_chain(read):
    boxes = [drawn("b", B2), drawn("e", FAR2), drawn("a", B1), drawn("d", FAR)]
    annotated = only(read([task(*boxes, relation("d", "e"), relation("a", "b"))]))
    assert annotated.chains == near((B1, B2), (FAR, FAR2))


def test_without_levels_and_links_boxes_nest_by_containment_and_those_beside_each_other_are_chains(read):
    annotated = only(read([task(drawn("far", FAR, "dog"), drawn("b", B2, "sign"), drawn("a", B1, "text"))]))
    assert annotated.chains == near((FAR,), (B1, B2))
    assert (annotated.labels, annotated.rule) == ((("dog",), ("text", "sign")), "containment")


def test_a_level_wins_over_a_link(read):
    annotated = only(read([task(*NESTED, relation("r3", "r1"))]))
    assert (annotated.chains, annotated.rule) == (near((B1, B2, B3)), "level")


def chained(how: str) -> list[dict]:
    """Two targets of two boxes each, whose chain is said in the given way."""
    results = []
    for target, boxes in (("left", (B1, B2)), ("right", (FAR, FAR2))):
        for level, box_px in enumerate(boxes, start=1):
            name = f"{target}{level}"
            meta = {"note": {"text": [f"chain={target}"]}, "meta": {"chain": target}}.get(how)
            labels = [f"B{level}"] + ([f"chain: {target}"] if how == "label" else [])
            results.append(drawn(name, box_px, *labels, **({"meta": meta} if meta else {})))
            if how == "answer":
                results.append(answer(name, "chain", "choices", [target]))
    return results


@pytest.mark.parametrize("how", ["note", "meta", "label", "answer"])
def test_targets_have_chains_of_their_own(read, how):
    annotated = only(read([task(*chained(how))]))
    assert annotated.chains == near((B1, B2), (FAR, FAR2))
    assert annotated.labels == (("B1", "B2"), ("B1", "B2"))


def test_a_level_may_be_a_number_that_was_asked_for_each_region(read):
    results = [drawn("x", B2, "sign"), answer("x", "level", "number", 2), drawn("y", B1, "text"), answer("y", "level", "textarea", ["1"])]
    annotated = only(read([task(*results)]))
    assert (annotated.chains, annotated.labels, annotated.rule) == (near((B1, B2)), (("text", "sign"),), "level")


def test_a_rectangle_and_its_labels_may_be_two_results_of_one_region(read):
    one, two = drawn("r", B1, "B1"), drawn("r", B1)
    one["type"], one["value"]["labels"] = "labels", one["value"].pop("rectanglelabels")
    two["type"] = "rectangle"
    del two["value"]["rectanglelabels"]
    assert only(read([task(two, one)])).labels == (("B1",),)


def test_cancelled_annotations_are_skipped_and_counted(read):
    both = task(drawn("r", FAR, "B1"), question_id="q")
    both["annotations"].append(task(*NESTED, was_cancelled=True, updated_at="2030")["annotations"][0])
    (annotated,), counted, first = read([both])
    assert annotated.chains == near((FAR,))
    assert counted == {Fault.CANCELLED: 1}
    assert first[Fault.CANCELLED] == "export, task 1, annotation 10, was_cancelled: 'True'"


def test_a_task_whose_annotations_were_all_cancelled_is_no_question(read):
    refused(read([task(*NESTED, was_cancelled=True), GOOD]), Fault.CANCELLED)


@pytest.mark.parametrize("truth", [True, False])
def test_the_ground_truth_is_used_else_the_newest_annotation(read, truth):
    versions = task(drawn("old", B1), updated_at="2024-03-01T10:00:00Z", ground_truth=truth)
    versions["annotations"] += task(drawn("new", FAR), updated_at="2024-03-09T10:00:00Z")["annotations"]
    versions["annotations"] += task(drawn("mid", B2), updated_at="2024-03-02T10:00:00Z")["annotations"]
    (annotated,), counted, _ = read([versions])
    assert annotated.chains == near((B1 if truth else FAR,))
    assert counted == {Fault.SUPERSEDED: 2}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/3/0a1b2c3d-a b.jpg", "a b.jpg"),
        ("/data/local-files/?d=photos/a%20b.jpg", "a b.jpg"),
        ("/data/local-files/?d=photos%5Ca.jpg", "a.jpg"),
        ("s3://bucket/x/a.jpg", "a.jpg"),
        ("https://host/x/a%20b.jpg?X-Amz-Date=1", "a b.jpg"),
        ("0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),  # not an upload: that is its name
        ("a#1.jpg", "a#1.jpg"),
    ],
)
def test_the_name_of_an_image_is_found_in_every_kind_of_address(read, image, name):
    assert only(read([task(*NESTED, image=image)])).image == name


@pytest.mark.parametrize(
    ("results", "fault", "where"),
    [
        ([drawn("r", B1, "B1", rotation=12)], Fault.ROTATED, "r.rotation: '12.0'"),
        ([drawn("r", B1, "B1", image_rotation=90)], Fault.ROTATED, "r.image_rotation: '90'"),
        ([drawn("r", (400, 300, 400, 340), "B1")], Fault.NO_AREA, "r: "),
        ([drawn("r", (1990, 300, 2003, 340), "B1")], Fault.OUTSIDE, "2000x1000 px"),
        ([drawn("r", B1, "B1") | {"value": {"x": None, "y": 1, "width": 1, "height": 1}}], Fault.BAD_NUMBER, "nan"),
        ([drawn("a", B1, "B1"), drawn("c", B3, "B3")], Fault.GAP, "level: '[1, 3]'"),
        ([drawn("b", B2, "B2")], Fault.GAP, "level: '[2]'"),
        ([drawn("a", B1, "B1"), drawn("b", B2, "sign")], Fault.LACKS_LEVEL, "b.level: 'sign'"),
        ([drawn("a", B1, "B1"), drawn("b", FAR, "B1")], Fault.REPEATED_LEVEL, "b.level: '1'"),
        ([drawn("a", B1, "B0")], Fault.BAD_LEVEL, "a.level: 'B0'"),
        ([drawn("a", B1, "B1", "level=2")], Fault.BAD_LEVEL, "a.level: 'B1 and 2'"),
        ([drawn("a", B2, "B1"), drawn("b", B1, "B2")], Fault.NOT_NESTED, "a in b"),  # the wrong way round
        ([drawn("a", B1, "B1"), drawn("b", B1, "B2")], Fault.NOT_NESTED, "a in b"),  # the same box twice
        ([drawn("a", B1), drawn("b", B2), relation("a", "z")], Fault.DANGLING, "link: 'a in z'"),
        ([drawn("a", B1), drawn("b", B2), relation("a", "b", "bi")], Fault.NO_CHAIN, "circle"),
        ([drawn("a", B1), drawn("b", FAR), drawn("c", B3), relation("a", "c"), relation("b", "c")], Fault.NO_CHAIN, "b in c"),
        ([drawn("a", B1), drawn("b", B2), drawn("c", B3), relation("a", "b")], Fault.UNLINKED, "c and a"),
        ([drawn("a", B1), drawn("b", FAR), drawn("c", (0, 0, 2000, 1000))], Fault.SEVERAL_INSIDE, "c: 'a and b'"),
        ([drawn("a", B1), drawn("b", (450, 310, 800, 500))], Fault.NOT_NESTED, "a in b"),
        ([drawn("a", B1), drawn("b", B2, size=(2000, 999))], Fault.BAD_SIZE, "original_width"),
        ([drawn("a", B1) | {"original_width": None}], Fault.NO_SIZE, "missing; records of a.jpg have 0 sizes"),
        ([drawn("a", B1) | {"original_width": 0}], Fault.BAD_SIZE, "0 x 1000"),
        ([drawn("a", B1) | {"original_width": 999.5}], Fault.BAD_SIZE, "999.5 x 1000"),
        ([drawn("a", (400, 300, 400.5, 340))], Fault.FRACTION, "a: '(400.0, 300.0, 400.5, 340.0)"),
        ([], Fault.NO_BOX, "annotation 10"),
        (["text"], Fault.BAD_VALUE, "task 1"),
    ],
)
def test_what_cannot_be_a_chain_drops_the_question_and_says_where(read, results, fault, where):
    told = refused(read([task(*results), GOOD]), fault)
    assert told.startswith("export, task 1, ") and where in told


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (task(*NESTED, question_id=True), Fault.BAD_QUESTION_ID),
        (task(*NESTED, question_id=[7]), Fault.BAD_QUESTION_ID),
        (task(*NESTED, image=""), Fault.NO_IMAGE),
        (task(*NESTED) | {"annotations": []}, Fault.NOT_ANNOTATED),
        (task(*NESTED, question_id="good"), Fault.REPEATED),
        ({"id": 1}, Fault.NOT_ANNOTATED),
        (17, Fault.BAD_VALUE),
    ],
)
def test_a_task_that_cannot_be_read_is_counted(read, broken, fault):
    refused(read([GOOD, broken]), fault)


def test_a_shape_that_is_no_rectangle_is_dropped_alone(read):
    polygon = {"id": "p", "type": "polygonlabels", "value": {"points": [[1, 2], [3, 4], [5, 6]], "polygonlabels": ["B2"]}}
    (annotated,), counted, first = read([task(drawn("a", B1, "B1"), polygon)])
    assert annotated.chains == near((B1,))
    assert (counted, first[Fault.NOT_RECTANGULAR]) == ({Fault.NOT_RECTANGULAR: 1}, "export, task 1, annotation 10, p: 'polygonlabels'")


def test_answers_about_the_whole_task_are_no_shapes(read):
    only(read([task(*NESTED, answer("z", "quality", "choices", ["good"]))]))


# ---------------------------------------------------------------------------------------- nesting, and drawing by hand


def test_boxes_that_do_not_nest_are_refused_unless_they_are_to_be_repaired(read):
    results = [drawn("a", B1, "B1"), drawn("b", (450, 260, 600, 400), "B2"), drawn("c", (420, 200, 700, 500), "B3")]
    assert "a in b" in refused(read([task(*results), GOOD]), Fault.NOT_NESTED)
    (annotated, _), counted, _ = read([task(*results), GOOD], repair=True)
    # B2 grows to the left by 50 px; B3, which held the old B2, must then hold the new one
    assert annotated.chains == near((B1, (400, 260, 600, 400), (400, 200, 700, 500)))
    assert counted == {Fault.REPAIRED: 2}


def test_repair_does_not_turn_a_chain_round(read):
    refused(read([task(drawn("a", B2, "B1"), drawn("b", B1, "B2")), GOOD], repair=True), Fault.NOT_NESTED)


def test_a_repaired_overlap_is_a_chain_under_containment(read):
    (annotated,), counted, _ = read([task(drawn("a", B1), drawn("b", (450, 310, 800, 500)))], repair=True)
    assert annotated.chains == near((B1, (400, 300, 800, 500)))
    assert counted == {Fault.REPAIRED: 1}


@pytest.mark.parametrize(
    ("outer", "fits"),
    [
        ((401.9, 290, 550, 350), True),  # 1.9 px short on the left; 1 % of its 148 px is less
        ((402.5, 290, 550, 350), False),
        ((405, 290, 1000, 350), True),  # 5 px short, but its side is 595 px
        ((407, 290, 1000, 350), False),
    ],
)
@pytest.mark.parametrize("labels", [("B1", "B2"), ("", "")], ids=["level", "containment"])
def test_an_inner_box_may_stick_out_by_two_pixels_or_one_percent_of_the_outer_side(read, outer, fits, labels):
    found = read([task(drawn("a", B1, labels[0]), drawn("b", outer, labels[1])), GOOD])
    if fits:
        assert found[0][0].chains == near((B1, (400, *outer[1:])))
        assert found[1] == {Fault.GREW: 1}
    else:
        refused(found, Fault.NOT_NESTED)


def test_edges_that_only_rounding_parts_are_not_worth_a_word(read):
    shared = [
        drawn("a", (100.1, 100.1, 200.3, 200.3), "B1", size=(643, 481)),
        drawn("b", (90.7, 90.7, 200.3, 200.3), "B2", size=(643, 481)),
    ]
    only(read([task(*shared)]))
    only(read([task(drawn("a", (0.3, 90, 643, 200), size=(643, 481)))]))  # x + width is 100.00000000000001 %


def test_small_boxes_side_by_side_are_two_targets_although_each_is_within_two_pixels_of_the_other(read):
    annotated = only(read([task(drawn("a", (10, 10, 12, 12)), drawn("b", (12, 10, 14.5, 12.5)))]))
    assert len(annotated.chains) == 2


def test_a_box_that_leaves_the_image_by_two_pixels_is_clamped(read):
    (annotated,), counted, _ = read([task(drawn("a", (-2, 300, 500, 1001.5)))])
    assert annotated.chains == near(((0, 300, 500, 1000),))
    assert counted == {Fault.CLAMPED: 1}


@given(st.lists(st.tuples(*[st.floats(-5, 105)] * 4), min_size=1, max_size=5), st.booleans(), st.integers(0, 2))
@PROPERTY
def test_whatever_is_drawn_the_chains_that_come_out_lie_in_the_image_and_in_each_other(tmp_path_factory, corners, repair, rule):
    results = []
    for number, (x1, y1, x2, y2) in enumerate(corners, start=1):
        one = drawn(f"r{number}", B1, *([f"B{number}"] if rule == 0 else []), size=(643, 481))
        one["value"] |= {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        results += [one] + ([relation(f"r{number - 1}", f"r{number}")] if rule == 1 and number > 1 else [])
    export = saved(tmp_path_factory.getbasetemp() / "drawn", [task(*results), GOOD])
    for annotated in read_annotations(export, repair)[0]:
        record = canonical("s/t/7", "a.jpg", annotated.size) | {"boxes": annotated.chains}
        path = saved(tmp_path_factory.getbasetemp() / "drawn.jsonl", record)
        assert problems_of(read_records(path)[0][0]) == []


# ---------------------------------------------------------------------------------------------------------------- CVAT


def test_cvat_boxes_are_pixels_and_attributes_say_question_and_level(read):
    annotated = only(
        read(cvat(cvat_image(cvat_box(B2, "sign", {"qid": "12", "level": "2"}), cvat_box(B1, "text", {"qid": "12", "level": "1"}))))
    )
    assert annotated.chains == ((B1, B2),)
    assert annotated.labels == (("text", "sign"),)
    assert (annotated.question_id, annotated.image, annotated.size, annotated.rule) == ("12", "a.jpg", (2000, 1000), "level")


def test_boxes_of_one_cvat_group_are_a_chain(read):
    boxes = [cvat_box(B2, group_id=4), cvat_box(FAR2, group_id=9), cvat_box(B1, group_id=4), cvat_box(FAR, group_id=9)]
    annotated = only(read(cvat(cvat_image(*boxes))))
    assert (annotated.chains, annotated.rule) == (((B1, B2), (FAR, FAR2)), "link")


def test_cvats_group_zero_is_no_group(read):
    annotated = only(read(cvat(cvat_image(cvat_box(B2, group_id=0), cvat_box(FAR, group_id=0)))))
    assert (annotated.chains, annotated.rule) == (((B2,), (FAR,)), "containment")


def test_with_levels_a_group_or_a_chain_attribute_tells_the_targets_apart(read):
    grouped = cvat_image(*(cvat_box(box_px, f"B{level}", group_id=group) for level, group, box_px in [(1, 1, B1), (2, 1, B2), (1, 2, FAR)]))
    said = cvat_image(
        cvat_box(B1, "B1", {"chain": "a"}), cvat_box(FAR, "B1", {"chain": "b"}), cvat_box(B2, "B2", {"chain": "a"}), name="b.jpg"
    )
    (one, two), counted, _ = read(cvat(grouped, said))
    assert one.chains == two.chains == ((B1, B2), (FAR,)) and not counted


def test_a_cvat_image_may_have_several_questions(read):
    found, counted, _ = read(cvat(cvat_image(cvat_box(B1, "B1", {"qid": "1"}), cvat_box(FAR, "B1", {"qid": "2"}))))
    assert [(each.question_id, each.chains) for each in found] == [("1", ((B1,),)), ("2", ((FAR,),))] and not counted


def test_cvat_boxes_without_a_question_are_the_question_of_their_image(read):
    assert only(read(cvat(cvat_image(cvat_box(B1, attributes={"qid": "__undefined__"}))))).question_id is None


def test_boxes_without_a_question_beside_boxes_with_one_are_counted(read):
    (annotated,), counted, first = read(cvat(cvat_image(cvat_box(B1, attributes={"qid": "1"}), cvat_box(FAR))))
    assert annotated.question_id == "1" and counted == {Fault.LACKS_QID: 1}
    assert first[Fault.LACKS_QID].startswith("export, image 'images/a.jpg', box 2.qid")


@pytest.mark.parametrize(
    ("shapes", "fault"),
    [
        ([cvat_box(B1, rotation="30.5")], Fault.ROTATED),
        ([cvat_box(("x", 0, 5, 5))], Fault.BAD_NUMBER),
        (['<box label="a" xtl="1" ytl="1" xbr="9"/>'], Fault.BAD_NUMBER),
        ([cvat_box((500, 300, 400, 340))], Fault.NO_AREA),
        ([cvat_box(B1, attributes={"level": "inner"})], Fault.BAD_LEVEL),
        ([], Fault.NO_BOX),
    ],
)
def test_a_cvat_image_that_cannot_be_used_is_counted(read, shapes, fault):
    good = cvat_image(cvat_box(B1, attributes={"qid": "good"}), name="good.jpg")
    refused(read(cvat(good, cvat_image(*shapes))), fault)


def test_a_cvat_polygon_is_dropped_alone_and_a_tag_is_no_shape(read):
    (annotated,), counted, _ = read(cvat(cvat_image('<tag label="t"/>', '<polygon label="B2" points="1,2;3,4;5,1"/>', cvat_box(B1, "B1"))))
    assert annotated.chains == ((B1,),) and counted == {Fault.NOT_RECTANGULAR: 1}


def test_the_zip_of_cvat_is_read_as_it_was_downloaded(tmp_path):
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.jpg", b"not needed")
        archive.writestr("annotations.xml", cvat(cvat_image(cvat_box(B1))))
    assert only(read_annotations(path)).chains == ((B1,),)


# ---------------------------------------------------------------------------------------------------------------- COCO


def test_coco_boxes_are_corner_and_size_in_pixels_with_attributes(read):
    inner = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [400.0, 300.0, 100.0, 40.0], "attributes": {"level": 1, "qid": 12}}
    outer = {"id": 2, "image_id": 5, "category_id": 1, "bbox": [360, 260, 240, 140], "attributes": {"level": 2.0, "question_id": "12"}}
    annotated = only(read(coco(outer, inner)))
    assert annotated.chains == (((400, 300, 500, 340), (360, 260, 600, 400)),)
    assert annotated.labels == (("text", "sign"),)
    assert (annotated.question_id, annotated.image, annotated.size, annotated.rule) == ("12", "a.jpg", (2000, 1000), "level")


def test_a_coco_parent_is_a_link_and_a_coco_category_may_be_a_level(read):
    linked = only(read(coco(coco_box(1, B1, parent_id=2), coco_box(2, B2))))
    assert (linked.chains, linked.rule) == (((B1, B2),), "link")
    assert refused_alone(read, coco(coco_box(1, B1, category=2))) == Fault.GAP  # category 2 is called B2


@pytest.mark.parametrize("categories", [None, 5, {"id": 1}, ["B1"], [{"id": [1], "name": "B1"}]])
def test_categories_that_are_none_name_no_level(read, categories):
    assert only(read(coco(coco_box(1, B1)) | {"categories": categories})).chains == ((B1,),)


def test_coco_boxes_without_attributes_nest_by_containment(read):
    annotated = only(read(coco(coco_box(1, B3), coco_box(2, B1), coco_box(3, B2))))
    assert (annotated.chains, annotated.question_id, annotated.rule) == (((B1, B2, B3),), None, "containment")


def refused_alone(read, export: dict) -> Fault:
    """The one fault of an export to which a good image is added."""
    export["images"].append({"id": 77, "width": 2000, "height": 1000, "file_name": "good.jpg"})
    export["annotations"].append(coco_box(770, B1, image=77, qid="good"))
    found = read(export)
    (fault,) = found[1]
    refused(found, fault)
    return fault


@pytest.mark.parametrize(
    ("annotations", "fault"),
    [
        ([coco_box(1, B1, rotation=3.0)], Fault.ROTATED),
        ([coco_box(1, B1) | {"bbox": [1, 2, 3]}], Fault.BAD_NUMBER),
        ([coco_box(1, B1) | {"bbox": [1, 2, True, 4]}], Fault.BAD_NUMBER),
        ([coco_box(1, B1), coco_box(1, B2), coco_box(2, B3, parent_id=1)], Fault.BAD_VALUE),
        ([], Fault.NO_BOX),
    ],
)
def test_a_coco_image_that_cannot_be_used_is_counted(read, annotations, fault):
    assert refused_alone(read, coco(*annotations)) == fault


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (coco_box(2, B2, image=6), Fault.NO_SUCH_IMAGE),
        (coco_box(2, B2) | {"iscrowd": 1}, Fault.NOT_RECTANGULAR),
        (coco_box(2, B2) | {"bbox": []}, Fault.NOT_RECTANGULAR),
        (coco_box(2, B2) | {"image_id": []}, Fault.BAD_BOX),
        (coco_box(2, B2) | {"attributes": ["level"]}, Fault.BAD_BOX),
        ("box", Fault.BAD_BOX),
    ],
)
def test_a_coco_box_that_cannot_be_used_is_dropped_alone(read, broken, fault):
    (annotated,), counted, _ = read(coco(coco_box(1, B1), broken))
    assert annotated.chains == ((B1,),) and counted == {fault: 1}


# ----------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "neither JSON nor XML"),
        (b"\xff\xd8\xff\xe0 a photograph", "neither JSON nor XML"),
        ("x1,y1,x2,y2\n1,2,3,4\n", "begins with 'x1,y1,x2,y2"),
        ("[" * 100_000, "neither JSON nor XML"),
        ('[{"id": 1, "data": ', "neither JSON nor XML"),
        ([], "holds \\[\\]"),
        ({}, "an object with the keys \\(none\\)"),
        ({"boxes": [], "version": 2}, "the keys boxes, version"),
        ("3", "holds 3"),
        ([{"image": "a.jpg", "id": 1, "label": NESTED, "annotator": 1, "annotation_id": 10}], "JSON-MIN.*export again, as JSON"),
        ([{"image": "a.jpg", "label": [{"x": 1, "original_width": 9}]}], "JSON-MIN"),
        ("<annotations><image>", "not complete XML"),
        ("<html><body/></html>", "<html> with body"),
        ("<annotations><version>1.1</version></annotations>", "without <image>"),
        ("<annotations><track id='0'/></annotations>", "CVAT for video"),
        (cvat(cvat_image(), head='<!DOCTYPE annotations [<!ENTITY a "aa">]>'), "DOCTYPE"),
        (cvat(cvat_image(), head='<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a SYSTEM "x">').encode("utf-16"), "DOCTYPE"),
        ([task(*NESTED, was_cancelled=True)], f"no annotation that can be used. 1 x {Fault.CANCELLED}"),
        (cvat(cvat_image()), "no annotation that can be used"),
        (coco(), "no annotation that can be used"),
    ],
)
def test_a_file_that_is_no_export_or_leaves_nothing_says_what_was_seen(read, content, told):
    with pytest.raises(ValueError, match=told):
        read(content)


def test_a_file_that_does_not_exist_names_the_formats(tmp_path):
    with pytest.raises(ValueError, match=r"do not exist.*Label Studio.*CVAT.*COCO"):
        read_annotations(tmp_path / "none.json")


@pytest.mark.parametrize("names", [[], ["a/annotations.xml", "b/annotations.xml"], ["annotations/instances_default.json"]])
def test_a_zip_must_hold_one_annotations_xml(tmp_path, names):
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, cvat(cvat_image(cvat_box(B1))))
    with pytest.raises(ValueError, match=r"holds [02] files annotations\.xml"):
        read_annotations(path)


def test_a_byte_order_mark_does_not_matter(read):
    only(read(codecs.BOM_UTF8 + json.dumps([task(*NESTED)]).encode()))
    only(read(cvat(cvat_image(cvat_box(B1)), head='<?xml version="1.0" encoding="utf-16"?>').encode("utf-16")))


# ------------------------------------------------------------------------------------------------------- onto records


def canonical(name: str, image: str, size=(2000, 1000), **more) -> dict:
    record = {"schema": 1, "id": name, "source": name.split("/")[0], "split": "test", "image": image, "width": size[0], "height": size[1]}
    return record | {"question": "What does it say?", "answers": ["42"], "boxes": [], "licence": "unstated"} | more


@pytest.fixture
def join(tmp_path):
    """Write records and an export and join them."""

    def joined(records: list[dict], export: object, repair: bool = False):
        path = tmp_path / "records.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        out = tmp_path / "annotated.jsonl"
        written = write_annotated(path, saved(tmp_path / "export", export), out, repair)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["annotated.jsonl", "export", "records.jsonl"]
        return [json.loads(line) for line in out.read_text().splitlines()], written

    return joined


def test_annotated_records_are_written_with_their_boxes_and_nothing_else_changes(join):
    records = [canonical("vstar/test/6", "x/b.jpg"), canonical("vstar/test/7", "x/a.jpg", boxes=[[[1, 2, 3, 4]]], meta={"k": [1]}, odd="ä")]
    (record,), written = join(records, cvat(cvat_image(cvat_box(B1, "B1", {"qid": "7"}), cvat_box(B2, "B2", {"qid": "7"}))))
    boxes = {"boxes": [[list(B1), list(B2)]], "box_labels": [["B1", "B2"]], "box_origin": "human", "box_rule": "level"}
    assert record == records[1] | boxes
    assert (written.annotated, written.without, written.rules, written.counted) == (1, 1, {"level": 1}, {})


def test_what_is_written_can_be_read_as_samples(join, tmp_path):
    join([canonical("vstar/test/7", "a.jpg")], [task(*chained("note"))])
    (sample,), dropped = read_records(tmp_path / "annotated.jsonl")
    assert sample.boxes == near((B1, B2), (FAR, FAR2)) and not dropped


@pytest.mark.parametrize("question_id", ["Perception/OCR/0001", "mme/lite/Perception/OCR/0001"])
def test_a_question_is_found_by_its_native_id_which_may_hold_slashes_or_by_its_whole_id(join, question_id):
    records = [canonical("mme/lite/Perception/OCR/0001", "a.jpg"), canonical("mme/lite/0001", "a.jpg")]
    (record,), written = join(records, [task(*NESTED, question_id=question_id)])
    assert record["id"] == "mme/lite/Perception/OCR/0001" and not written.counted


def test_without_an_id_a_question_is_found_by_the_name_of_its_image(join):
    records = [canonical("s/t/1", "x/a.png"), canonical("s/t/2", "x/b.png")]
    (record,), written = join(records, [task(*NESTED, question_id=None, image="a.jpg")])
    assert record["id"] == "s/t/1" and not written.counted


OTHER = cvat_image(cvat_box(B1, attributes={"qid": "other"}), name="other.jpg")


@pytest.mark.parametrize(
    ("records", "image", "fault", "where"),
    [
        # two questions about the image, and boxes that do not say which of them they are for
        ([canonical("s/t/1", "a.jpg"), canonical("s/t/2", "a.jpg")], cvat_image(cvat_box(B1)), Fault.SEVERAL_QUESTIONS, "image: 'a'"),
        ([canonical("s/t/1", "b.jpg")], cvat_image(cvat_box(B1)), Fault.NO_RECORD, "image: 'a'"),
        ([canonical("s/t/1", "a.jpg")], cvat_image(cvat_box(B1, attributes={"qid": "8"})), Fault.NO_RECORD, "question id: '8'"),
        (
            [canonical("s/t/1", "a.jpg"), canonical("s/u/1", "a.jpg")],
            cvat_image(cvat_box(B1, attributes={"qid": "1"})),
            Fault.SEVERAL_RECORDS,
            "question id: '1'",
        ),
        (
            [canonical("s/t/1", "a.jpg", size=(1000, 500))],
            cvat_image(cvat_box(B1)),
            Fault.OTHER_SIZE,
            "s/t/1: '2000x1000 px, the record says 1000x500 px'",
        ),
    ],
)
def test_boxes_that_fit_no_record_are_counted(join, records, image, fault, where):
    (record,), written = join([*records, canonical("s/t/other", "other.jpg")], cvat(OTHER, image))
    assert record["id"] == "s/t/other"
    assert written.counted == {fault: 1}
    assert written.first[fault].startswith("export, image 'images/a.jpg'") and where in written.first[fault]


def test_a_record_takes_its_boxes_from_its_id_rather_than_from_its_image(join):
    export = cvat(cvat_image(cvat_box(FAR)), cvat_image(cvat_box(B1, attributes={"qid": "1"}), name="copy/a.jpg"))
    (record,), written = join([canonical("s/t/1", "a.jpg")], export)
    assert record["boxes"] == [[list(B1)]]
    assert written.counted == {Fault.REPEATED: 1}


def test_an_image_of_another_name_is_worth_a_word(join):
    (_,), written = join([canonical("s/t/7", "c0ffee.png")], [task(*NESTED)])
    assert written.counted == {Fault.OTHER_NAME: 1}
    assert written.first[Fault.OTHER_NAME].endswith("s/t/7: 'a.jpg, the record says c0ffee.png'")


def test_what_was_dropped_when_reading_is_told_when_writing(join):
    (record,), written = join([canonical("s/t/good", "a.jpg")], [GOOD, task(drawn("a", B1, "B1", rotation=5))])
    assert record["box_rule"] == "level" and written.counted == {Fault.ROTATED: 1}


def test_repair_is_handed_on(join):
    results = [drawn("a", B1, "B1"), drawn("b", (450, 260, 600, 400), "B2")]
    (record,), written = join([canonical("s/t/7", "a.jpg")], [task(*results)], repair=True)
    assert record["boxes"][0][1] == pytest.approx([400, 260, 600, 400])
    assert written.counted == {Fault.REPAIRED: 1}


def test_nothing_is_written_where_no_record_is_annotated(join, tmp_path):
    with pytest.raises(ValueError, match=r"annotates none of the 1 records.*no record has its question id"):
        join([canonical("s/t/8", "b.jpg")], [task(*NESTED)])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["export", "records.jsonl"]


@pytest.mark.parametrize(("line", "told"), [('{"id": 3}\n', "row 1: not a canonical record, its id is 3"), ("{\n", "row 1")])
def test_records_that_are_none_are_named_with_their_row(tmp_path, line, told):
    (tmp_path / "records.jsonl").write_text(line)
    with pytest.raises(ValueError, match=told):
        write_annotated(tmp_path / "records.jsonl", saved(tmp_path / "export", [task(*NESTED)]), tmp_path / "out.jsonl")


def test_a_file_is_never_overwritten_by_its_own_part(tmp_path):
    path = saved(tmp_path / "records.jsonl", json.dumps(canonical("s/t/7", "a.jpg")) + "\n")
    with pytest.raises(ValueError, match="would overwrite"):
        write_annotated(path, saved(tmp_path / "export", [task(*NESTED)]), tmp_path / "x" / ".." / "records.jsonl")
    assert json.loads(path.read_text())["id"] == "s/t/7"
