"""Predictions of an evaluation: one JSON line per question and repeat, read back and graded."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.data.boxes import iou
from focus.data.options import shuffled
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator
from focus.grading.answers import Rung
from focus.grading.answers import graded as graded_by_rule
from focus.grading.extraction import read_answer
from focus.grading.grader import Grader
from focus.grading.judge import Case
from focus.model.prompts import CROP_CONTENT, Call, Fault, Malformed, error_content, parse
from focus.rollout.loop import seed_of
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn

KEPT_META = ("category", "l2-category", "Task", "Subtask", "Category", "cycle_category", "question_type", "index", "data_source")


class Repeated(Sequence[tuple[Sample, int]]):
    """Every sample `repeats` times, each with the number of the repeat; all of the first come first."""

    def __init__(self, samples: Sequence[Sample], repeats: int) -> None:
        self.samples, self.repeats = samples, repeats

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def __getitem__(self, index: Any) -> Any:
        repeat, place = divmod(index, len(self.samples))
        return self.samples[place], repeat


class Shuffled(Sequence[Sample]):
    """Samples with their options in an order drawn for each by `seed`."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        return Shuffled(sample, self.seed) if isinstance(index, slice) else shuffled(sample, seed_of("options", self.seed, sample.id))


def refusals(rows: Sequence[Mapping[str, Any]], most: float) -> dict[str, float]:
    """The arms of which a larger share than `most` was refused by the server, and that share."""
    shares = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row["status"] == Status.REFUSED for row in rows if row["arm"] == arm]
        shares[arm] = sum(of_arm) / len(of_arm)
    return {arm: share for arm, share in shares.items() if share > most}


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


class Predictions:
    """What was said, one JSON line for each question and repeat with all its arms, written as it is played and graded later.

    Beside it lies `<name>.measured`, which names the policy, the questions and the settings. Raises ValueError where that is another:
    going on would mix two measurements.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, measured = path, path.with_suffix(".measured")
        if path.is_file() and path.stat().st_size and (not measured.is_file() or measured.read_text() != identity):
            raise ValueError(
                f"{path} holds an evaluation of another policy, of other questions or with other settings; give this one a folder of its "
                "own (output=FOLDER), or remove that one"
            )
        write_text_atomically(measured, identity)
        with path.open("a+b") as lines:
            lines.seek(0)
            whole = 0
            for line in lines:
                whole += len(line) if line.endswith(b"\n") else 0
            lines.truncate(whole)  # a last line that a crash has cut is played again
        self.done = {(line["id"], line["repeat"]) for line in self.lines()}

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write down some questions."""
        with self.path.open("a") as out:
            out.write("".join(json.dumps(line) + "\n" for line in lines))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line, in the order of writing."""
        with self.path.open() as lines:
            yield from map(json.loads, lines)


def _lines(examiner: Evaluator, chunk: Sequence[Sample], repeat: int) -> list[dict[str, Any]]:
    asked = examiner.ask(chunk, repeat)
    lines = []
    for sample in chunk:
        arms = asked.played.get(sample.id, {})
        lines.append(
            {
                "id": sample.id,
                "repeat": repeat,
                "source": sample.source,
                "split": sample.split,
                "group": sample.group or sample.id,
                "question": sample.question,
                "options": dict(sample.options),
                "published_keys": sample.meta.get("published_keys", {}),
                "accepted": list(sample.answers),
                "scorer": sample.scorer,
                "boxes": sample.boxes,
                "meta": {key: sample.meta[key] for key in KEPT_META if key in sample.meta},
                "broken": asked.broken.get(sample.id),
                "seconds": asked.seconds / len(asked.played) if arms else None,
                "arms": {
                    arm: conversation_json(arms[arm]) if arms else None
                    for arm in dict.fromkeys(("own", *examiner.arms))
                    if arm != "gt" or sample.boxes
                },
            }
        )
    return lines


def graded(line: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    """The rows of one question, one for each arm: what was said, what it is read as by the rule `mode`, and how right that is by its rule.

    `published_answer` and `published_extracted` are keys of the published file, for scorers that know only those.
    """
    options, published = tuple(line["options"].items()), line["published_keys"]
    shared = {key: line[key] for key in ("id", "repeat", "source", "split", "group", "question", "options", "accepted", "scorer", "meta")}
    answer = line["accepted"][0]
    rows = []
    for arm, kept in line["arms"].items():
        turns = kept["turns"] if kept else []
        status = Status(kept["status"]) if kept else None
        cut, mute = status is Status.OUT_OF_TOKENS, status in (None, Status.OUT_OF_TURNS, Status.REFUSED)
        extracted = None if mute else read_answer(turns[-1]["text"], kept["answer"], cut, options, mode)
        boxes = [turn["box_px"] for turn in turns if "box_px" in turn]
        table = [[iou(box, chain[0]) for box in boxes] for chain in line["boxes"]]  # target x crop
        located = bool(table) and arm == "own"
        grade = graded_by_rule(extracted, tuple(line["accepted"]), line["scorer"], options, line["question"])
        rows.append(
            shared
            | {
                "arm": arm,
                "prediction": turns[-1]["text"].removesuffix("<|im_end|>") if turns else "",
                "extracted": extracted,
                "answer": answer,
                "published_answer": published.get(answer, answer),
                "published_extracted": published.get(extracted, extracted) if extracted is not None else None,
                "right": grade.right,
                "graded_by": grade.rung,
                "status": status or "broken",
                "opening": kept["opening"] if kept else "",
                "turns": turns,
                "crops": len(boxes),
                "visual_tokens": kept["visual_tokens"] if kept else None,
                "sampled_tokens": kept["sampled_tokens"] if kept else None,
                # of every target the best crop (recall), of every crop the best target (precision); TreeBench publishes the first alone
                "iou_recall": _best(table) if located else None,
                "iou_precision": _best(list(zip(*table, strict=True))) if located and boxes else None,
                "seconds": line["seconds"] if arm == "own" else None,
                "broken": line["broken"],
            }
        )
    return rows


def _best(table: Sequence[Sequence[float]]) -> float:
    """Mean over the rows of the best value in each, 0 in an empty one."""
    return sum(max(row, default=0.0) for row in table) / len(table)


def _ask(grader: Grader, rows: Sequence[dict[str, Any]]) -> None:
    """Grade what the rules left open, all at once: the judge's cache makes a second time free, and its log complete."""
    left = [row for row in rows if row["graded_by"] == Rung.OPEN]
    cases = [Case(row["question"], tuple(row["accepted"]), row["extracted"], tuple(row["options"].items()), row["scorer"]) for row in left]
    for row, grade in zip(left, grader.measure(cases), strict=True):
        row["right"], row["graded_by"] = grade.right, grade.rung


def conversation_json(t: Trajectory) -> dict[str, Any]:
    """A conversation as JSON: what `replay_conversation` makes a trajectory of again, and what it cost."""
    return {
        "status": t.status,
        "answer": t.answer,
        "opening": t.opening,
        "turns": [
            {"text": turn.text, "tokens": len(turn.ids)}
            | ({"box_view": turn.action.box_view, "box_px": turn.action.box_px} if isinstance(turn.action, Crop) else {})
            for turn in t.turns
        ],
        "visual_tokens": t.visual_tokens,
        "sampled_tokens": sum(t.sampled_mask),
    }


def replay_conversation(row: Mapping[str, Any], sample: Sample, examiner: Evaluator) -> Trajectory:
    """The conversation of a row, as `conversation_json` writes it. Its crops are cut again; the model is not asked."""
    view, source = examiner.gap.view_of(sample, sample.open())
    t = Trajectory(sample, source, view, (), examiner.seed, opening=row["opening"])
    for number, turn in enumerate(row["turns"]):
        said = Turn((-1,) * turn["tokens"], (), turn["text"], Malformed(Fault.NO_ACTION))
        if "box_px" in turn:
            action = Crop(tuple(turn["box_view"]), tuple(turn["box_px"]))
            crop = examiner.rules.cut(t, action.box_px, examiner.model.token_px)
            said = Turn(said.ids, (), said.text, action, Observation((-1,) * crop.tokens, crop, CROP_CONTENT))
        else:
            spoken = parse(turn["text"], examiner.model.dialect)
            last = number + 1 == len(row["turns"])
            act = Malformed(Fault.NO_CROPS_LEFT if last else Fault.OUTSIDE) if isinstance(spoken, Call) else spoken
            told = Observation((), None, error_content(act.fault)) if isinstance(act, Malformed) and not last else None
            said = Turn(said.ids, (), said.text, act, told)
        t = t.then(said, Status.OPEN)
    source.release()  # the page is drawn from the view and the crops
    return replace(t, status=Status(row["status"]))
