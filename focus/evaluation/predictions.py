"""Predictions of an evaluation: one JSON line per question and repeat, read back and graded later."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.data.boxes import iou
from focus.data.drawn import twin_of
from focus.data.options import shuffled
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator, can_play
from focus.evaluation.hits import hits
from focus.evaluation.kept import Kept
from focus.evaluation.measure import said
from focus.grading.answers import Rung
from focus.grading.answers import graded as graded_by_rule
from focus.grading.extraction import read_answer
from focus.grading.grader import Grader
from focus.grading.judge import Case
from focus.model.prompts import CROP_CONTENT, Call, Fault, Malformed, error_content, parse
from focus.rollout.loop import seed_of
from focus.rollout.trajectory import Action, Crop, Observation, Status, Trajectory, Turn
from focus.runtime.files import atomic_write, json_text

KEPT_META = ("category", "l2-category", "Task", "Subtask", "Category", "cycle_category", "question_type", "index", "data_source")


class Repeated(Sequence[tuple[Sample, int]]):
    """Every sample `repeats` times, with the number of the repeat. The first repeat of all samples comes first."""

    def __init__(self, samples: Sequence[Sample], repeats: int) -> None:
        self.samples, self.repeats = samples, repeats

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def __getitem__(self, index: Any) -> Any:
        repeat, of_sample = divmod(index, len(self.samples))
        return self.samples[of_sample], repeat


class Shuffled(Sequence[Sample]):
    """Samples with shuffled options; `seed` and the sample's id fix the order."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        return Shuffled(sample, self.seed) if isinstance(index, slice) else shuffled(sample, seed_of("options", self.seed, sample.id))


def refusals(rows: Sequence[Mapping[str, Any]], most: float) -> dict[str, float]:
    """The arms in which the server refused a larger share of the questions than `most`, and that share."""
    shares = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row["status"] == Status.REFUSED for row in rows if row["arm"] == arm]
        shares[arm] = sum(of_arm) / len(of_arm)
    return {arm: share for arm, share in shares.items() if share > most}


class Predictions:
    """The file of conversations: one JSON line per question and repeat, with all arms, written as they are played.

    `<name>.measured` beside it holds the identity of the measurement: policy, questions, settings.
    Raises ValueError where the file has another identity: to continue would mix two measurements.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, measured = path, path.with_suffix(".measured")
        if path.is_file() and path.stat().st_size and (not measured.is_file() or measured.read_text() != identity):
            raise ValueError(
                f"{path} holds an evaluation of another policy, of other questions or with other settings; give this one a folder of its "
                "own (output=FOLDER), or remove that one"
            )
        with atomic_write(measured) as partial:
            partial.write_text(identity)
        with path.open("a+b") as lines:
            lines.seek(0)
            whole_bytes = 0
            for line in lines:
                whole_bytes += len(line) if line.endswith(b"\n") else 0
            lines.truncate(whole_bytes)  # a last line that a crash has cut is played again
        self.done = {(line["id"], line["repeat"]) for line in self.lines()}

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append the lines of some questions."""
        with self.path.open("a") as out:
            out.write("".join(json_text(line) + "\n" for line in lines))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line, in the order of writing."""
        with self.path.open() as lines:
            yield from map(json.loads, lines)


def play_lines(evaluator: Evaluator, chunk: Sequence[Sample], repeat: int, kept: Kept) -> list[dict[str, Any]]:
    """Play these questions in every arm; returns one JSON line per question, with its rows for the table `kept`."""
    batch = evaluator.play_arms(chunk, repeat)
    lines = []
    for sample in chunk:
        arms = batch.trajectories.get(sample.id, {})
        crops = len(arms["own"].crops) if arms else 0
        twin = twin_of(sample) if "conflict" in evaluator.arms else None
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
                "size": sample.size,
                "boxes": sample.boxes,
                "twin": list(twin.answers) if twin else None,
                "meta": {key: sample.meta[key] for key in KEPT_META if key in sample.meta},
                "broken": batch.unreadable.get(sample.id),
                "seconds": batch.own_seconds / len(batch.trajectories) if arms else None,
                "arms": {
                    arm: conversation_json(arms[arm]) if arms else None
                    for arm in dict.fromkeys(("own", *evaluator.arms))
                    if can_play(arm, sample, crops)
                },
                "kept": kept.rows_of({arm: t for arm, t in arms.items() if can_play(arm, sample)}, repeat) if arms else {},
            }
        )
    return lines


def graded_rows(line: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    """The rows of one line, one per arm: the text, the answer that the extraction rule `mode` reads, and its grade by the sample's rule.

    `published_answer` and `published_extracted` are option keys of the published file, for scorers that
    know only those.
    """
    options, published = tuple(line["options"].items()), line["published_keys"]
    shared = {key: line[key] for key in ("id", "repeat", "source", "split", "group", "question", "options", "accepted", "scorer", "meta")}
    answer = line["accepted"][0]
    rows = []
    for arm, conversation in line["arms"].items():
        turns = conversation["turns"] if conversation else []
        status = Status(conversation["status"]) if conversation else None
        cut, unanswered = status is Status.OUT_OF_TOKENS, status in (None, Status.OUT_OF_TURNS, Status.REFUSED)
        extracted = None if unanswered else read_answer(turns[-1]["text"], conversation["answer"], cut, options, mode)
        boxes = [turn["box_px"] for turn in turns if "box_px" in turn]
        ious = [[iou(box, chain[0]) for box in boxes] for chain in line["boxes"]]  # target x crop
        located = bool(ious) and arm == "own"
        grade = graded_by_rule(extracted, tuple(line["accepted"]), line["scorer"], options, line["question"])
        hit, chance = None, None
        if located and boxes and "size" in line:  # evaluations that were played before have no size
            hit, chance = hits(boxes, [chain[0] for chain in line["boxes"]], line["size"])
        of_twin = line["twin"] if arm == "conflict" else None
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
                "opening": conversation["opening"] if conversation else "",
                "turns": turns,
                "crops": len(boxes),
                "visual_tokens": conversation["visual_tokens"] if conversation else None,
                "sampled_tokens": conversation["sampled_tokens"] if conversation else None,
                # recall: the best crop for every target; precision: the best target for every crop. TreeBench publishes recall alone
                "iou_recall": _mean_of_best(ious) if located else None,
                "iou_precision": _mean_of_best(list(zip(*ious, strict=True))) if located and boxes else None,
                "hit": hit,
                "chance": chance,
                "says": said(graded_by_rule(extracted, tuple(of_twin), line["scorer"]).right, grade.right) if of_twin else None,
                "seconds": line["seconds"] if arm == "own" else None,
                "broken": line["broken"],
            }
        )
    return rows


def _mean_of_best(table: Sequence[Sequence[float]]) -> float:
    """Mean over rows of the largest value in the row; an empty row counts 0."""
    return sum(max(row, default=0.0) for row in table) / len(table)


def grade_open(grader: Grader, rows: Sequence[dict[str, Any]]) -> None:
    """Grade the rows that the rules left open, in place and all at once.

    A second call costs no request, because the judge caches its verdicts, and it makes the judge's log complete.
    """
    open_rows = [row for row in rows if row["graded_by"] == Rung.OPEN]
    cases = [
        Case(row["question"], tuple(row["accepted"]), row["extracted"], tuple(row["options"].items()), row["scorer"]) for row in open_rows
    ]
    for row, grade in zip(open_rows, grader.measure(cases), strict=True):
        row["right"], row["graded_by"] = grade.right, grade.rung


def conversation_json(t: Trajectory) -> dict[str, Any]:
    """A conversation as JSON: what `replay_conversation` needs to rebuild the trajectory, and its cost in tokens."""
    return {
        "status": t.status,
        "answer": t.answer,
        "opening": t.prefill,
        "turns": [
            {"text": turn.text, "tokens": len(turn.ids)}
            | ({"box_view": turn.action.box_view, "box_px": turn.action.box_px} if isinstance(turn.action, Crop) else {})
            for turn in t.turns
        ],
        "visual_tokens": t.visual_tokens,
        "sampled_tokens": sum(t.sampled_mask),
    }


def replay_conversation(row: Mapping[str, Any], sample: Sample, evaluator: Evaluator) -> Trajectory:
    """The trajectory of a row that `conversation_json` wrote. Its crops are cut again; the model does not run.

    Token ids are not in the row: every turn has as many ids of -1 as it had tokens.
    """
    view, source = evaluator.gap.view_of(sample, sample.open())
    t = Trajectory(sample=sample, source=source, view=view, prompt_ids=(), seed=evaluator.seed, prefill=row["opening"])
    for number, turn in enumerate(row["turns"]):
        ids = (-1,) * turn["tokens"]
        action: Action
        observation: Observation | None
        if "box_px" in turn:
            action = Crop(tuple(turn["box_view"]), tuple(turn["box_px"]))
            crop = evaluator.limits.cut(t, action.box_px, evaluator.model.token_px)
            observation = Observation((-1,) * crop.tokens, crop, CROP_CONTENT)
        else:
            parsed = parse(turn["text"], evaluator.model.dialect)
            last = number + 1 == len(row["turns"])
            action = Malformed(Fault.NO_CROPS_LEFT if last else Fault.OUTSIDE) if isinstance(parsed, Call) else parsed
            observation = Observation((), None, error_content(action.fault)) if isinstance(action, Malformed) and not last else None
        t = t.with_turn(Turn(ids, (), turn["text"], action, observation), Status.OPEN)
    source.release()  # the page is drawn from the view and the crops
    return replace(t, status=Status(row["status"]))
