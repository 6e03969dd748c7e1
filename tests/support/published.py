"""Published data sets in miniature: the files, names and columns their owners ship, with a few rows and tiny pictures of our own.

Every `write_<set>(root)` lays the set out under `root` as a download would. Values that a test expects stand in the rows themselves.
`copies` repeats the rows with ids of their own and the same pictures, for whoever needs a large table.
"""

import base64
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

csv.field_size_limit(sys.maxsize)
# How the published prompts begin, which is what readers know them by; the rest is ours
THINK = "Think first, call **image_zoom_in_tool** as you like, and so on until <answer>...</answer> "
TOOLS = 'Some words about tools.\n<tools>\n{"type":"function","function":{"name":"image_zoom_in_tool"}}\n</tools>'

# ---------------------------------------------------------------------------------------------------- pictures and tables


@cache
def picture(size: tuple[int, int] = (100, 80), colour: int = 0, kind: str = "JPEG") -> bytes:
    """The file of a picture of one colour. Another `colour` gives other bytes, hence another hash."""
    out = io.BytesIO()
    Image.new("RGB", size, (40 + 9 * colour % 200, 200 - 7 * colour % 190, 5 * colour % 250)).save(out, format=kind)
    return out.getvalue()


def encoded(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")


def numbered(rows: Sequence[dict], key: str, form: str = "{}{}") -> list[dict]:
    """These rows with `key` made of what stands there and the number of the row, from 0."""
    return [row | {key: form.format(row[key], number)} for number, row in enumerate(rows)]


def write_bytes(path: Path, blob: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)


def write_json(path: Path, value: object) -> None:
    write_bytes(path, json.dumps(value, ensure_ascii=False, indent=1).encode())


def write_jsonl(path: Path, rows: Sequence[dict]) -> None:
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_tsv(path: Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, list(rows[0]), dialect="excel-tab", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_parquet(path: Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def edit(path: Path, change: Callable[[list[dict]], object]) -> None:
    """Rewrite a table after `change` altered its rows in place; the suffix says which kind of table it is."""
    match path.suffix:
        case ".json":
            rows = json.loads(path.read_text())
            write = write_json
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            write = write_jsonl
        case ".tsv":
            with path.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines, dialect="excel-tab"))
            write = write_tsv
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
            write = write_parquet
        case other:
            raise ValueError(f"tables end in .json, .jsonl, .tsv or .parquet, not in {other!r}")
    change(rows)
    write(path, rows)


# ---------------------------------------------------------------------------------------------------- evaluation sets


def write_vstar(root: Path, copies: int = 1) -> None:
    """Three questions: the worked glove, a box that touches two borders (its id a string), a relation with two options and targets."""
    suffix = "Answer with the option's letter from the given choices directly."
    questions = [
        {
            "image": "direct_attributes/sa_4690.jpg",
            "text": f"What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n{suffix}",
            "category": "direct_attributes",
            "label": "A",
            "question_id": 0,
        },
        {
            "image": "direct_attributes/sa_24.jpg",
            "text": f"What is the color of the flag?\n(A) white\n(B) blue\n(C) red (dark)\n(D) green\n{suffix}",
            "category": "direct_attributes",
            "label": "C",
            "question_id": "1",
        },
        {
            "image": "relative_position/sa_33.jpg",
            "text": f"Is the dog on the left or right side of the bench?\n(A) left\n(B) right\n{suffix}",
            "category": "relative_position",
            "label": "B",
            "question_id": 2,
        },
    ]
    boxes = [  # per-image JSON: the first option is always the right one, boxes are x, y, width, height
        {
            "target_object": ["glove"],
            "bbox": [[564, 142, 155, 157]],
            "question": "What is the material of the glove?",
            "options": ["The glove is rubber.", "The glove is cotton.", "The glove is kevlar.", "The glove is leather."],
        },
        {
            "target_object": ["flag"],
            "bbox": [[80, 50, 20, 30]],
            "question": "What is the color of the flag?",
            "options": ["The flag is red (dark).", "The flag is white.", "The flag is blue.", "The flag is green."],
        },
        {
            "target_object": ["dog", "bench"],
            "bbox": [[0, 0, 10, 20], [30, 40, 25, 15]],
            "question": "Is the dog on the left or right side of the bench?",
            "options": ["The dog is on the right.", "The dog is on the left."],
        },
    ]
    rows = []
    for copy in range(copies):
        for number, row in enumerate(questions):
            rows.append(row | {"question_id": type(row["question_id"])(3 * copy + number)})
    write_jsonl(root / "test_questions.jsonl", rows)
    for colour, (row, box) in enumerate(zip(questions, boxes, strict=True)):
        write_bytes(root / row["image"], picture((2000, 1500) if colour == 0 else (100, 80), colour))
        write_json((root / row["image"]).with_suffix(".json"), box)
    write_bytes(root / "OCR/sa_1.jpg", picture((20, 20), 9))  # ships beside the questions; no part of them
    write_json(root / "OCR/sa_1.json", boxes[1])


def _hrbench(name: str, root: Path, copies: int, form: str) -> None:
    pier = ["left", "right", "both", 'neither "boat"']
    asked = [
        ("What number is on the boat?", ["12", "34", "56", "78"], "single", picture((120, 90), 10)),
        ("Which is nearer to the pier, left or right boat?", pier, "cross", picture((120, 90), 11, "PNG")),
    ]
    rows = []
    for copy in range(copies):
        for question, texts, category, image in asked:  # the right text is the first one; it moves by one place at each rotation
            for turn in range(4):
                turned = texts[-turn:] + texts[:-turn]
                rows.append(
                    {
                        "index": len(rows),
                        "question": question if copy == 0 else f"{question} ({copy})",
                        **dict(zip("ABCD", turned, strict=True)),
                        "answer": "ABCD"[turn],
                        "category": category,
                        "cycle_category": f"cycle_{turn}",
                        "image": encoded(image),
                    }
                )
    (write_parquet if form == "parquet" else write_tsv)(root / f"{name}.{form}", rows)


def write_hrbench4k(root: Path, copies: int = 1, form: str = "parquet") -> None:
    """Two questions in four rotations each: a single one on a JPEG, a cross one on a PNG. `form`: parquet or tsv."""
    _hrbench("hr_bench_4k", root, copies, form)


def write_hrbench8k(root: Path, copies: int = 1, form: str = "parquet") -> None:
    _hrbench("hr_bench_8k", root, copies, form)


def write_mme_rw_lite(root: Path, copies: int = 1, form: str = "parquet") -> None:
    """Four rows, one for each parquet shard: a JPEG, a PNG, full-width brackets, the right answer E. `form`: parquet or tsv."""
    five = ["(A) 3", "(B) 4", "(C) 5", "(D) 6", "(E) The image does not feature the cars."]
    wide = ["（A） 北京路", "（B） 南京路", "（C）中山路", "（D） 人民路", "（E） 图中没有该路牌"]
    asked = [
        ("How many cars are there?", five, "B", "Perception/Monitoring", "vehicle/counting"),
        ("What is the phone number?", ["(A) 1 (0) 2", "(B) 22", "(C) 23", "(D) 24", "(E) It is not shown."], "A",
         "Perception/OCR with Complex Context", "phone"),
        ("路牌上写着什么？", wide, "C", "perception/ocr with complex context", "street"),
        ("How many red cars are there?", five, "E", "Reasoning/Monitoring", "vehicle/counting"),
    ]  # fmt: skip
    rows = []
    for _ in range(copies):
        for colour, (question, options, answer, category, finer) in enumerate(asked, start=20):
            image = encoded(picture((100, 80), colour, "PNG" if colour == 21 else "JPEG"))
            rows.append(
                {
                    "index": len(rows),
                    "bytes" if form == "parquet" else "image": image,
                    "question": question,
                    "multi-choice options": options if form == "parquet" else repr(options),
                    "answer": answer,
                    "category": category,
                    "l2-category": finer,
                }
            )
    if form == "tsv":
        write_tsv(root / "mme_realworld_lite.tsv", rows)
        return
    for shard in range(4):
        write_parquet(root / f"data/train-{shard:05d}-of-00004.parquet", rows[shard * copies : (shard + 1) * copies])


def write_mme_rw(root: Path, copies: int = 1) -> None:
    asked = [
        {
            "Question_id": "Perception/Autonomous_Driving/Objects_Identify",
            "Question Type": "Multiple Choice",
            "Image": "AutonomousDriving/0000.jpg",
            "Text": "What is the car in front doing?",
            "Answer choices": ["(A) turning", "(B) parking", "(C) braking", "(D) reversing", "(E) There is no car in front."],
            "Ground truth": "C",
            "Task": "Perception",
            "Subtask": "Autonomous_Driving",
            "Category": "Objects_Identify",
        },
        {
            "Question_id": "Reasoning/OCR with Complex Context/Scene",
            "Question Type": "Multiple Choice",
            "Image": "ocr/0001.png",
            "Text": "Which shop is open?",
            "Answer choices": ["(A) the bakery", "(B) the bank", "(C) the bar", "(D) the barber", "(E) None of them can be seen."],
            "Ground truth": "E",
            "Task": "Reasoning",
            "Subtask": "OCR with Complex Context",
            "Category": "Scene",
            "Dataset": "own",
        },
    ]
    write_json(root / "MME_RealWorld.json", numbered(asked * copies, "Question_id", "{}/{:04d}"))
    write_bytes(root / "AutonomousDriving/0000.jpg", picture((100, 80), 25))
    write_bytes(root / "ocr/0001.png", picture((100, 80), 26, "PNG"))


def write_mme_rw_cn(root: Path, copies: int = 1) -> None:
    row = {
        "Question_id": "Perception/OCR_CN/Scene",
        "Question Type": "Multiple Choice",
        "Image": "cn/0000.jpg",
        "Text": "招牌是什么颜色？",
        "Answer choices": ["（A） 红色", "（B） 绿色", "（C） 蓝色", "（D） 黄色", "（E） 图中没有招牌"],
        "Ground truth": "B",
        "Task": "Perception",
        "Subtask": "OCR_CN",
        "Category": "Scene",
    }
    write_json(root / "MME_RealWorld_CN.json", numbered([row] * copies, "Question_id", "{}/{:04d}"))
    write_bytes(root / "cn/0000.jpg", picture((100, 80), 27))


def write_treebench(root: Path, copies: int = 1) -> None:
    """An OCR row with quotes in its question, a row with two targets and two options, and one of six options without a target."""
    asked = [
        ('What does the sign "EXIT" point to?', ["a door", "None", "a stair", "a lift"], "C", "Perception/OCR", "[[10, 20, 40, 60]]"),
        ("Which is first, left or right?", ["left", "right"], "B", "Reasoning/Ordering", "[[0, 0, 30, 30], [60.5, 40, 100, 80]]"),
        ("What is it made of?", ["wood", "iron", "glass", "clay", "wool", "stone"], "F", "Perception/Material", "[]"),
    ]
    rows = []
    for _ in range(copies):
        for colour, (question, texts, answer, category, targets) in enumerate(asked, start=30):
            rows.append(
                {
                    "index": len(rows),
                    "image": encoded(picture((100, 80), colour)),
                    "question": question,
                    **dict(zip("ABCDEF", texts + [""] * (6 - len(texts)), strict=True)),  # NaN in a TSV is an empty cell
                    "multi-choice options": "\n".join(f"({key}) {text}" for key, text in zip("ABCDEF", texts, strict=False)),
                    "answer": answer,
                    "category": category,
                    "l2-category": category.split("/")[1],
                    "hint": "",
                    "target_instances": targets,
                }
            )
    write_tsv(root / "TreeBench.tsv", rows)


def write_zoombench(root: Path, copies: int = 1, names: tuple[str, str] = ("query", "response"), bbox: bool = False) -> None:
    """A choice with its crop, an open row without, a choice without. `names`: how question and answer columns are spelt."""
    crop = {"bytes": picture((20, 16), 43, "PNG"), "path": "crop_0.png"}
    asked = [
        ("How many windows are lit? Select from the following choices.\n(A) 0\n(B) 2\n(C) 4\n(D) 6", "B", crop, "Counting"),
        ("What hangs from the balcony?", "a striped carpet", None, "Object"),
        ("What colour is the kite? Select from the following choices.\n(A) red\n(B) blue", "A", None, "Color"),
    ]
    rows = [
        {
            "id": "zb_",
            names[0]: question,
            names[1]: answer,
            "image": {"bytes": picture((100, 80), colour), "path": f"{colour}.jpg"},
            "crop_image": crop_image,
            "question_type": kind,
            **({"bbox": [10, 20, 30, 36]} if bbox else {}),
        }
        for colour, (question, answer, crop_image, kind) in enumerate(asked, start=40)
    ]
    write_parquet(root / "data/test.parquet", numbered(rows * copies, "id"))


def write_visualprobe(root: Path, copies: int = 1) -> None:
    """One row a tier, the same `doc_id` in each; paths begin with the name of the repository; answers end in a dot or a space."""
    asked = [
        ("Easy", "What colour is the boat?", "green."),
        ("Medium", "What is written on the van?", " City Bakery "),
        ("Hard", "What is the man at the window holding?", "a red kite."),
    ]
    for colour, (tier, question, solution) in enumerate(asked, start=50):
        row = {
            "images": [f"VisualProbe_{tier}/data/photo.jpg"],
            "doc_id": "",
            "problem": f"<image>\n{question}",
            "solution": solution,
            "data_source": f"visual_probe_{tier.lower()}",
        }
        write_json(root / f"VisualProbe_{tier}/val.json", numbered([row] * copies, "doc_id"))
        write_bytes(root / f"VisualProbe_{tier}/data/photo.jpg", picture((100, 80), colour))


def write_visualneedle(root: Path, copies: int = 1) -> None:
    """An answer in Chinese, and a row without `image_path` whose box touches two borders."""
    host = "https://needle.example/visualneedle_300en"
    asked = [
        ("OCR Recognition", "Which character is to the right of 'OPEN'?", "辣", [30, 20, 42, 31]),
        ("Color Recognition", "What colour is the small flag on the tower?", "orange", [90, 72, 100, 80]),
    ]
    rows = []
    for copy in range(copies):
        for number, (category, question, answer, bbox) in enumerate(asked):
            path, drawn = f"images/needle_{number}.jpg", f"images_bbox/needle_{number}.jpg"
            row = {"id": f"needle_{2 * copy + number}", "category": category, "question": question, "answer": answer, "bbox": bbox}
            row |= {"image_url": f"{host}/{path}", "image_bbox_url": f"{host}/{drawn}"}
            rows.append(row | ({"image_path": path, "image_bbox_path": drawn} if number == 0 else {}))
    write_jsonl(root / "visualneedle_300en.jsonl", rows)
    for number in range(2):
        write_bytes(root / f"images/needle_{number}.jpg", picture((100, 80), 120 + number))
        write_bytes(root / f"images_bbox/needle_{number}.jpg", picture((100, 80), 122 + number))


def write_viebench(root: Path, copies: int = 1) -> None:
    """A row of each category, in the form that the reader assumes: no published file was found."""
    asked = [
        ("What does the shelf label show?", ["a price", "a name", "a date", "a code"], "B", "perception", "[40, 30, 52, 36]"),
        ("Which lane may turn left?", ["the left one", "the right one"], "A", "Reasoning", "[10.5, 60, 20, 70]"),
    ]
    rows = []
    for _ in range(copies):
        for colour, (question, texts, answer, category, bbox) in enumerate(asked, start=124):
            options = dict(zip("ABCD", texts + [""] * (4 - len(texts)), strict=True))
            row = {"index": len(rows), "image": encoded(picture((100, 80), colour)), "question": question, **options}
            rows.append(row | {"answer": answer, "category": category, "bbox": bbox})
    write_tsv(root / "ViEBench.tsv", rows)


def write_o3bench(root: Path, copies: int = 1) -> None:
    """A map with two targets of three regions, and a chart whose line breaks are stored as two characters."""
    regions = {"1": [5, 6, 35.5, 40], "2": [40, 0, 100, 30], "3": [0, 50, 60, 80]}
    layouts = {key: {"layout_id": int(key), "bbox": bbox} for key, bbox in regions.items()}
    common = {"explanation": "Step 1. ...", "layout_infos": layouts, "img_width": 100, "img_height": 80}
    shops = ["the bakery", "the bank", "the bar", "the barber", "the bookshop", "No Right Choice"]
    sums = ["4", "5", "6", "7", "8", "No Right Choice"]
    rows = [
        {
            "file_name": "images/map/mall.jpg",
            "subset": "map",
            "question": "Which shop is beside the lift in field C4?",
            "options": "\n".join(f"{key}. {text}" for key, text in zip("ABCDEF", shops, strict=True)),
            "answer": "C",
            "target_layouts": [1, 3],
        },
        {
            "file_name": "images/chart/sales.png",
            "subset": "chart",
            "question": "How much more was sold in May than in June?",
            "options": r"\n".join(f"{key}. {text}" for key, text in zip("ABCDEF", sums, strict=True)),
            "answer": "F ",
            "target_layouts": [2],
        },
    ]
    write_jsonl(root / "test/metadata.jsonl", [row | common for row in rows] * copies)
    write_bytes(root / "test/images/map/mall.jpg", picture((100, 80), 126))
    write_bytes(root / "test/images/chart/sales.png", picture((100, 80), 127, "PNG"))


def write_infovqa(root: Path, copies: int = 1) -> None:
    rows = [
        {
            "question": "What share of people read at night?",
            "answers": ["12%", "12 percent"],
            "image": {"bytes": picture((60, 200), 55), "path": "info_0.jpeg"},
        },
        {
            "question": "Which city comes first?",
            "answers": ["Lima"],
            "image": {"bytes": picture((60, 200), 56, "PNG"), "path": None},
        },
    ]
    rows = [{"questionId": str(98313 + number)} | row for number, row in enumerate(rows * copies)]
    write_parquet(root / "InfographicVQA/validation-00000-of-00001.parquet", rows)


def write_docvqa(root: Path, copies: int = 1) -> None:
    row = {
        "question": "What is the date of the letter?",
        "answers": ["1/8/93", "January 8, 1993"],
        "image": {"bytes": picture((80, 100), 57, "PNG"), "path": None},
    }
    rows = [{"questionId": str(49153 + copy)} | row for copy in range(copies)]
    write_parquet(root / "DocVQA/validation-00000-of-00001.parquet", rows)


def write_textvqa(root: Path, copies: int = 1) -> None:
    row = {
        "image_id": "003a8ae2ef43b901",
        "question": "what is the brand of this camera?",
        "image": {"bytes": picture((100, 80), 58), "path": None},
        "image_width": 100,
        "image_height": 80,
        "image_classes": ["Camera"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": ["dakota"] * 6 + ["dakota digital"] * 2 + ["nous les gosses", "clos culombu"],
        "ocr_tokens": ["DAKOTA", "DIGITAL"],
        "set_name": "val",
    }
    rows = [{"question_id": 34602 + copy} | row for copy in range(copies)]
    write_parquet(root / "data/validation-00000-of-00001.parquet", rows)


# ---------------------------------------------------------------------------------------------------- training sets


def _mini_o3(root: Path, repository: str, data_source: str, colour: int, copies: int) -> None:
    asked = [("What is the man holding?", "an umbrella."), ("Which number is on the door?", "17")]
    rows = []
    for _ in range(copies):
        for number, (question, solution) in enumerate(asked):
            rows.append(
                {
                    "images": [f"{repository}/data/{number}.jpg"],
                    "doc_id": f"doc_{len(rows)}",
                    "problem": f"<image>\n{question}",
                    "solution": solution,
                    "data_source": data_source,
                }
            )
    write_json(root / "train.json", rows)
    for number in range(len(asked)):
        write_bytes(root / f"data/{number}.jpg", picture((100, 80), colour + number))


def write_visualprobe_train(root: Path, copies: int = 1) -> None:
    _mini_o3(root, "VisualProbe_train", "visual_probe_train", 60, copies)


def write_deepeyes4k(root: Path, copies: int = 1) -> None:
    _mini_o3(root, "DeepEyes_train_4K", "deepeyes_train", 62, copies)


def write_pixelreasoner(root: Path, copies: int = 1) -> None:
    """A list inside \\boxed{}, a video, `is_video` null with nested braces, and two images."""
    rows = [
        {
            "qid": "p",
            "question": "<image>\nWhat flies over the roof?\n\nGuidelines: look where it flies, and say what it is.",
            "answer": [r"\boxed{['a red kite', 'red kite']}"],
            "image": ["images/0.jpg"],
            "is_video": False,
        },
        {"qid": "p", "question": "What happens first?", "answer": [r"\boxed{a fall}"], "image": ["images/1.jpg"], "is_video": True},
        {"qid": "p", "question": "What is the slope?", "answer": [r"\boxed{\frac{1}{2}}"], "image": ["images/1.jpg"], "is_video": None},
        {
            "qid": "p",
            "question": "Which is older?",
            "answer": [r"\boxed{left}"],
            "image": ["images/0.jpg", "images/1.jpg"],
            "is_video": False,
        },
    ]
    write_parquet(root / "release.parquet", numbered(rows * copies, "qid"))
    for number in range(2):
        write_bytes(root / f"images/{number}.jpg", picture((100, 80), 65 + number))


def write_cof_rl(root: Path, copies: int = 1, entries: str = "dict") -> None:
    """A question in `extra_info`, one to be cut from the user's turn, and a choice. `entries`: images as dict or as str."""
    trailer = "Think in the mind first, and then decide whether to call tools one or more times or provide the final answer."
    asked = [
        ("What is on the roof?", "What is on the roof?", "a weather vane", "./images/0.jpg"),
        ("What colour is the bus?", None, "yellow", "./images/1.jpg"),
        ("Which side is the door on?\n(A) left\n(B) right", "Which side is the door on?\n(A) left\n(B) right", "B", "images/1.jpg"),
    ]
    rows = []
    for index, (question, kept, truth, path) in enumerate(asked * copies):
        user = f"<image> Question: {question} \nAnswer the question using a single word or phrase. {trailer}"
        rows.append(
            {
                "prompt": [{"role": "system", "content": TOOLS}, {"role": "user", "content": user}],
                "images": [{"image": path} if entries == "dict" else path],
                "reward_model": {"style": "rule", "ground_truth": truth},
                "data_source": "cof",
                "agent_name": "tool_agent",
                "ability": "vqa",
                "extra_info": {
                    "split": "train",
                    "index": index,
                    "question": kept,
                    "answer": truth,
                    "need_tools_kwargs": True,
                    "tools_kwargs": {"image_zoom_in_tool": {"create_kwargs": {"image": path}}},
                },
            }
        )
    write_parquet(root / "train.parquet", rows)
    for number in range(2):
        write_bytes(root / f"images/{number}.jpg", picture((100, 80), 68 + number))


def write_thinklite(root: Path, copies: int = 1, form: str = "bytes") -> None:
    """Two open rows. `form`: bytes, struct ({bytes}), or 70k (with id, choices and ground_truth)."""
    asked = [("What is the length of AB?", "12"), ("Which bar is the tallest?", "the blue bar")]
    rows = []
    for number, (question, answer) in enumerate(asked * copies):
        blob = picture((64, 48), 70 + number % 2, "PNG")
        rows.append(
            {
                "image": {"bytes": blob, "path": None} if form == "struct" else blob,
                "problem": f"<image>{question}",
                "answer": answer,
                **({"id": f"think_{number}", "choices": None, "ground_truth": answer} if form == "70k" else {}),
            }
        )
    write_parquet(root / ("ThinkLite-VL-70k.parquet" if form == "70k" else "ThinkLite-VL-hard-11k.parquet"), rows)


def write_deepeyes47k(root: Path, copies: int = 1) -> None:
    """A row in each of the three files: a whole sentence as truth, a chart, and one without tools whose `env_name` is null.

    `extra_info.index` counts within a file, so the three rows have the same one.
    """
    files = [
        ("data_0.1.2_visual_toolbox_v2", "vstar", "What is the colour of the kite?", "The colour of the kite is red.", "visual_toolbox_v2"),
        ("data_v0.8_visual_toolbox_v2", "chart", "What does the dashed line show?", "the validation loss", "visual_toolbox_v2"),
        ("data_thinklite_reasoning_acc", "thinklite_eureka", "How many sides are there?", "12", None),
    ]
    for colour, (file, data_source, question, truth, env_name) in enumerate(files, start=73):
        image = {"bytes": picture((100, 80), colour, "PNG" if env_name is None else "JPEG"), "path": None}
        system = TOOLS if env_name else "You are a helpful assistant."
        user = f"<image>\n{question}\n" + (THINK if env_name else "Format strictly as: one word in <answer>...</answer>")
        rows = [
            {
                "data_source": data_source,
                "prompt": [{"role": "system", "content": system}, {"role": "user", "content": user}],
                "images": [image],
                "ability": "vl_chart" if data_source == "chart" else "math" if env_name is None else "vqa",
                "env_name": env_name,
                "reward_model": {"ground_truth": truth, "style": "model"},
                "extra_info": {"answer": truth, "index": str(copy), "question": question, "split": "train"},
            }
            for copy in range(copies)
        ]
        write_parquet(root / f"{file}.parquet", rows)


def write_treevgr_rl(root: Path, copies: int = 1) -> None:
    """Two targets, a null entry beside a target that touches two borders, and a counting row with four choices."""
    rows = [
        {
            "images": ["images/0.jpg"],
            "problem": "<image>\nIs the dog left or right of the bench?",
            "answer": "The dog is left of the bench.",
            "target_instances": [
                {"bbox": [5.0, 6.0, 25.5, 36.0], "label": "dog", "name": "dog"},
                {"bbox": [50.0, 30.0, 90.0, 70.0], "label": "bench", "name": "bench"},
            ],
        },
        {
            "images": ["images/1.jpg"],
            "problem": "<image>\nWhat colour is the flag?",
            "answer": "red",
            "target_instances": [None, {"bbox": [60.0, 40.0, 100.0, 80.0], "label": "flag", "name": "flag"}],
        },
        {
            "images": ["images/2.jpg"],
            "problem": "<image>\nHow many vans are there?\n(A) 3\n(B) 4\n(C) 5\n(D) 6",
            "answer": "C",
            "target_instances": [{"bbox": [1.0, 2.0, 9.0, 8.0], "label": "van", "name": "van"}],
        },
    ]
    write_parquet(root / "vstar30k_visdrone6k_x1y1x2y2.parquet", rows * copies)
    for number in range(3):
        write_bytes(root / f"images/{number}.jpg", picture((100, 80), 80 + number))


def write_seal(root: Path, copies: int = 1) -> None:
    """A search record with two targets (x, y, width, height) and a plain record without any."""
    rows = [
        {
            "id": "s",
            "image": "train2017/000000000001.jpg",
            "search": True,
            "conversations": [
                {"from": "human", "value": "<image>\nIs the cup left of the plate?"},
                {"from": "gpt", "value": "Yes, the cup is left of the plate."},
            ],
            "target_instances": [{"name": "cup", "bbox": [10, 20, 15, 25]}, {"name": "plate", "bbox": [50, 30, 50, 50]}],
        },
        {
            "id": "s",
            "image": "train2017/000000000002.jpg",
            "conversations": [
                {"from": "human", "value": "What is the weather like?\n<image>"},
                {"from": "gpt", "value": "It rains."},
            ],
        },
    ]
    write_json(root / "llava_focus_data.json", numbered(rows * copies, "id"))
    for number in (1, 2):
        write_bytes(root / f"train2017/{number:012d}.jpg", picture((100, 80), 83 + number))


def write_vigorl(root: Path, copies: int = 1) -> None:
    rows = [
        {"problem": "<image>\nWhat is the boy holding?", "answer": "a red kite", "images": ["visual_search/images/0.jpg"]},
        {"problem": "<image>\nWhat colour is the gate?", "answer": "white", "images": ["visual_search/images/1.jpg"]},
    ]
    write_jsonl(root / "visual_search/vigorl_SA_RL.jsonl", rows * copies)
    for number in range(2):
        write_bytes(root / f"visual_search/images/{number}.jpg", picture((100, 80), 86 + number))


VISCOT = ("cub", "docvqa", "dude", "flickr30k", "gqa", "infographicsvqa", "openimages", "sroie", "textcap", "textvqa", "visual7w", "vsr")
VISCOT_FOLDERS = {"textcap": "textvqa", "visual7w": "v7w"}  # of the others, the folder is named like the set


def write_viscot(root: Path, copies: int = 1) -> None:
    """All twelve sets, their pictures all named 0001.jpg. flickr30k: the worked portrait; docvqa: a landscape and a row with two boxes."""

    def row(name: str, question: str, answer: str, image: str, size: tuple[int, int], *bboxs: list[int]) -> dict:
        folder = VISCOT_FOLDERS.get(name, name)
        write_bytes(root / "cot" / folder / image, picture(size, 90 + VISCOT.index(name if name != "textcap" else "textvqa")))
        about = {"question": question, "answer": answer, "image": image, "dataset": name, "split": "train"}
        return about | {"width": size[0], "height": size[1], "bboxs": list(bboxs)}

    for name in VISCOT:
        match name:
            case "flickr30k":
                rows = [row(name, "What is the man holding?", "a paddle", "0001.jpg", (391, 500), [217, 343, 242, 393])]
            case "docvqa":
                rows = [
                    row(name, "Who signed the letter?", "R. Stone", "0001.jpg", (500, 391), [100, 50, 180, 90]),
                    row(name, "Which sums are equal?", "May and June", "0002.jpg", (100, 80), [10, 10, 30, 30], [50, 20, 90, 60]),
                ]
            case _:
                rows = [row(name, f"What does {name} show?", f"a {name} thing", "0001.jpg", (60, 40), [10, 10, 30, 30])]
        write_jsonl(root / f"metadata/{name}_cot_train.jsonl", rows * copies)


def write_viscot_chat(root: Path, copies: int = 1) -> None:
    """The chat form of three rows of `write_viscot`: pixels after ###, and shares of the square-padded picture in the conversation.

    Portrait 391 x 500: 54 px are added on the left, (217 + 54) / 500 = 0.542. Landscape 500 x 391: 54 px on top, (50 + 54) / 500 = 0.208.
    Two boxes are merged into their union; 100 x 80: 10 px on top, (10 + 10) / 100 = 0.2.
    """
    ask = " Please provide the bounding box coordinate of the region that can help you answer the question better."
    shown = [
        ("flickr30k/0001.jpg", (391, 500), "What is the man holding?", "[217, 343, 242, 393]", "[0.542, 0.686, 0.592, 0.786]", "a paddle"),
        ("docvqa/0001.jpg", (500, 391), "Who signed the letter?", "[100, 50, 180, 90]", "[0.200, 0.208, 0.360, 0.288]", "R. Stone"),
        ("docvqa/0002.jpg", (100, 80), "Which sums are equal?", "[10, 10, 90, 60]", "[0.100, 0.200, 0.900, 0.700]", "May and June"),
    ]
    rows = []
    for number, (image, size, question, pixels, shares, answer) in enumerate(shown):
        path = f"cot/{image}"
        rows.append(
            {
                "dataset": image.split("/")[0],
                "split": "train",
                "image": [path, f"{path}###{pixels}"],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question}{ask}"},
                    {"from": "gpt", "value": shares},
                    {"from": "human", "value": "<image>"},
                    {"from": "gpt", "value": answer},
                ],
            }
        )
        write_bytes(root / path, picture(size, 90 + number))
    rows = [row | {"question_id": number} for number, row in enumerate(rows * copies)]
    write_json(root / "viscot_363k.json", rows)


def write_viscot_det(root: Path, copies: int = 1) -> None:
    row = {
        "img_path": "coco/train2014/1.jpg",
        "expression": "the woman in the red coat",
        "bbox": [10.5, 20.25, 40.75, 60.0],
        "height": 80,
        "width": 100,
        "split": "val",
    }
    write_jsonl(root / "benchmark_det/refcoco.jsonl", [row | {"question_id": 7 + copy} for copy in range(copies)])
    write_bytes(root / "coco/train2014/1.jpg", picture((100, 80), 115))


def write_gqa(root: Path, copies: int = 1) -> None:
    """A question about two objects, and one whose annotations name none."""
    questions = [
        {
            "imageId": "2354786",
            "question": "Is the cup to the left of the plate?",
            "answer": "yes",
            "fullAnswer": "Yes, the cup is to the left of the plate.",
            "isBalanced": True,
            "groups": {"global": None, "local": "cup"},
            "types": {"structural": "verify", "semantic": "rel", "detailed": "verifyRel"},
            "semantic": [{"operation": "select", "argument": "cup (71)", "dependencies": []}],
            "semanticStr": "select: cup (71)",
            "annotations": {"question": {"2": "71"}, "answer": {}, "fullAnswer": {"2": "71", "8": "72"}},
        },
        {
            "imageId": "2354786",
            "question": "Is it indoors?",
            "answer": "no",
            "fullAnswer": "No, it is outdoors.",
            "isBalanced": True,
            "groups": {"global": "place", "local": None},
            "types": {"structural": "verify", "semantic": "global", "detailed": "place"},
            "semantic": [{"operation": "select", "argument": "scene", "dependencies": []}],
            "semanticStr": "select: scene",
            "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
        },
    ]
    scene = {
        "width": 100,
        "height": 80,
        "objects": {
            "71": {"name": "cup", "x": 10, "y": 10, "w": 20, "h": 20, "attributes": ["white"], "relations": []},
            "72": {"name": "plate", "x": 30, "y": 20, "w": 30, "h": 40, "attributes": [], "relations": []},
            "73": {"name": "lamp", "x": 90, "y": 0, "w": 10, "h": 10, "attributes": [], "relations": []},
        },
    }
    by_id = {f"{number:03d}": question for number, question in enumerate(questions * copies, start=1)}
    write_json(root / "train_balanced_questions.json", by_id)
    write_json(root / "train_sceneGraphs.json", {"2354786": scene})
    write_bytes(root / "images/2354786.jpg", picture((100, 80), 116))


def write_textvqa_ocr(root: Path, copies: int = 1) -> None:
    """A question whose answer is an OCR word, and one whose answer is none."""
    common = {"image_id": "0000599864fd15b3", "image_width": 100, "image_height": 80, "image_classes": [], "set_name": "train"}
    data = [
        common | {"question": "what does the sign say?", "answers": ["stop"] * 8 + ["halt", "stop sign"]},
        common | {"question": "what colour is the sign?", "answers": ["red"] * 10},
    ]
    box = {"width": 0.3, "height": 0.5, "rotation": 0.0, "top_left_x": 0.2, "top_left_y": 0.25}
    far = {"width": 0.1, "height": 0.1, "rotation": 0.0, "top_left_x": 0.9, "top_left_y": 0.9}
    words = {
        "image_id": "0000599864fd15b3",
        "ocr_tokens": ["stop", "main"],
        "ocr_info": [{"word": "stop", "bounding_box": box}, {"word": "main", "bounding_box": far}],
    }
    data = [row | {"question_id": number} for number, row in enumerate(data * copies)]
    write_json(root / "TextVQA_0.5.1_train.json", {"data": data})
    write_json(root / "TextVQA_Rosetta_OCR_v0.2_train.json", {"data": [words]})
    write_bytes(root / "train_images/0000599864fd15b3.jpg", picture((100, 80), 117))


def write_zwz_rl(root: Path, copies: int = 1) -> None:
    row = {
        "images": ["images/0.jpg"],
        "problem": "<image>\nWhat is written in the red box?",
        "answer": "OPEN",
        "bbox": [12.0, 24.0, 52.0, 64.0],
        "status": "ok",
    }
    write_parquet(root / "train.parquet", [row] * copies)
    write_bytes(root / "images/0.jpg", picture((100, 80), 118))


WRITERS: dict[str, Callable[..., None]] = {
    "vstar": write_vstar,
    "hrbench4k": write_hrbench4k,
    "hrbench8k": write_hrbench8k,
    "mme_rw_lite": write_mme_rw_lite,
    "mme_rw": write_mme_rw,
    "mme_rw_cn": write_mme_rw_cn,
    "treebench": write_treebench,
    "zoombench": write_zoombench,
    "visualprobe": write_visualprobe,
    "visualneedle": write_visualneedle,
    "viebench": write_viebench,
    "o3bench": write_o3bench,
    "infovqa": write_infovqa,
    "docvqa": write_docvqa,
    "textvqa": write_textvqa,
    "visualprobe_train": write_visualprobe_train,
    "deepeyes4k": write_deepeyes4k,
    "pixelreasoner": write_pixelreasoner,
    "cof_rl": write_cof_rl,
    "thinklite": write_thinklite,
    "deepeyes47k": write_deepeyes47k,
    "treevgr_rl": write_treevgr_rl,
    "seal": write_seal,
    "vigorl": write_vigorl,
    "viscot": write_viscot,
    "viscot_chat": write_viscot_chat,
    "viscot_det": write_viscot_det,
    "gqa": write_gqa,
    "textvqa_ocr": write_textvqa_ocr,
    "zwz_rl": write_zwz_rl,
}
