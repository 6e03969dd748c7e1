"""What a policy gets right on a data set, what that costs, and where it looked. `make evaluate CHECKPOINT=... DATA=vstar`.

An evaluation that is interrupted goes on where it stopped; one that is finished only shows its result again. Every question stays in the
denominator: an image that can't be read, an answer that can't be parsed and a request that a server refused are wrong.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from focus import config
from focus.answers import grade
from focus.boxes import iou
from focus.data.options import shuffled
from focus.data.sample import Sample
from focus.dependence import Examiner, chunks
from focus.extraction import extract, final_answer
from focus.gap import Gap, Mode
from focus.judge import Case, Judge
from focus.prompts import ANSWER_OPEN
from focus.report.evaluation import beside_the_paper, evaluation_table, summary, worst
from focus.report.page import write_page
from focus.report.run import measured_settings
from focus.report.table import markdown_table, print_table
from focus.rollout.loop import seed_of
from focus.rollout.trajectory import Crop, Status, Trajectory
from focus.train import held_out_samples, leaks_of, load_player, reached, rules

KEPT_META = ("category", "l2-category", "cycle_category", "question_type", "index", "data_source")


class Shuffled(Sequence[Sample]):
    """Samples with their options in an order drawn for each by `seed`."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        return Shuffled(sample, self.seed) if isinstance(index, slice) else shuffled(sample, seed_of("options", self.seed, sample.id))


def run(cfg: DictConfig) -> None:
    """Play every question in every arm; write predictions, numbers, tables and the page."""
    console = Console()
    config.check(cfg, "evaluate")
    torch.set_num_threads(cfg.threads)
    samples: Sequence[Sample] = held_out_samples(cfg)
    for sentence in leaks_of(cfg, samples):
        console.print(sentence)
    if cfg.options == "shuffled":
        samples = Shuffled(samples, cfg.seed)
    model, engine = load_player(cfg)
    output = Path(cfg.output) if cfg.output else Path("outputs/evaluate") / _name(cfg.policy.checkpoint) / cfg.data.source
    e, gap = cfg.evaluation, Gap(Mode.FIXED, cfg.view.max_tokens, model.token_px, min_tokens=cfg.view.min_tokens)
    examiner = Examiner(model, engine, gap, rules(cfg, e.temperature), cfg.seed, e.arms, e.questions_per_forward, e.sigma)
    judge = _judge(cfg, output)
    identity = " ".join([model.weights_hash(), measured_settings(cfg), cfg.options, cfg.extraction, str(judge and judge.endpoint.model)])
    with config.writable(str(output)):
        predictions = Predictions(output / "predictions.jsonl", identity)
    for repeat in range(cfg.repeats):
        label = f"{cfg.data.source}, {repeat + 1} of {cfg.repeats}" if cfg.repeats > 1 else cfg.data.source
        for chunk in chunks(samples, e.questions_per_forward, label):
            left = [sample for sample in chunk if (sample.id, repeat) not in predictions.done]
            if left:
                predictions.add(_rows(examiner, left, repeat, cfg.extraction, judge))
    rows = list(predictions.rows())
    found = summary(rows, e.arms, e.resamples) | {"settings": _settings(cfg, model.weights_hash())}
    if judge:
        found["judge"] = {name: getattr(judge, name) for name in ("asked", "cached", "by_rule", "unclear", "refused", "disagreements")}
    (output / "evaluation.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    table = evaluation_table(found)
    paper = beside_the_paper(found, output.parent)
    (output / "evaluation.md").write_text(markdown_table(table) + "\n" + "\n".join(map(markdown_table, paper)))
    examples = worst(rows, samples, examiner, cfg.pictures)
    write_page(output / "report.html", table.title, None, table, examples, OmegaConf.to_yaml(cfg, resolve=True))
    print_table(table, console)
    console.print(f"table, beside the paper's: {output / 'evaluation.md'}   page: {output / 'report.html'}")
    console.print(f"numbers: {output / 'evaluation.json'}\npredictions: {predictions.path}")


class Predictions:
    """One JSON line for every question, arm and repeat, written as they are played: the record that other scorers read.

    The first line names what was measured. Raises ValueError for a file of another measurement: resuming it would mix two.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.done: set[tuple[str, int]] = set()
        if not path.is_file() or not path.read_bytes().strip():
            path.write_text(json.dumps({"measured": identity}) + "\n")
        with path.open("r+b") as lines:
            whole = 0  # a last line that a crash has cut is played again
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
            lines.truncate(whole)
        with path.open() as lines:
            before = json.loads(next(lines))["measured"]
            if before != identity:
                raise ValueError(
                    f"{path} holds an evaluation of another policy or with other settings; give this one a folder of its own "
                    "(output=FOLDER), or remove that one"
                )
        self.done = {(row["id"], row["repeat"]) for row in self.rows()}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows of some questions, whole questions at a time."""
        with self.path.open("a") as lines:
            lines.write("".join(json.dumps(row) + "\n" for row in rows))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, in the order of writing."""
        with self.path.open() as lines:
            next(lines)
            yield from map(json.loads, lines)


def _rows(examiner: Examiner, chunk: Sequence[Sample], repeat: int, mode: str, judge: Judge | None) -> list[dict[str, Any]]:
    """What became of some questions: one row for each and each arm, graded."""
    asked = examiner.ask(chunk, repeat)
    arms = ["own", *(arm for arm in examiner.arms if arm != "own")]
    rows = []
    for sample in chunk:
        for arm in arms:
            if arm == "gt" and not sample.boxes:
                continue
            t = asked.played[sample.id][arm] if sample.id in asked.played else None
            rows.append(_row(sample, arm, repeat, t, mode))
            rows[-1]["broken"] = asked.broken.get(sample.id)
            rows[-1]["seconds"] = asked.seconds / max(len(asked.played), 1) if arm == "own" and t else None
    if judge:
        judged = [row for row in rows if row["scorer"] == "judge"]
        cases = [Case(row["question"], tuple(row["accepted"]), row["extracted"]) for row in judged]
        for row, right in zip(judged, judge.grade_all(cases), strict=True):
            row["right"], row["graded_by"] = right, "judge"
    return rows


def _row(sample: Sample, arm: str, repeat: int, t: Trajectory | None, mode: str) -> dict[str, Any]:
    said = t.turns[-1].text if t and t.turns else ""
    extracted = read_answer(t, sample, mode) if t else None
    published: dict[str, str] = sample.meta.get("published_keys", {})  # type: ignore[assignment]
    boxes = [crop.box_px for crop in t.crops] if t else []
    table = [[max(iou(box, level) for level in chain) for box in boxes] for chain in sample.boxes]  # target x crop
    graded = bool(table) and arm == "own"
    return {
        "id": sample.id,
        "arm": arm,
        "repeat": repeat,
        "source": sample.source,
        "split": sample.split,
        "group": sample.group or sample.id,
        "question": sample.question,
        "options": dict(sample.options),
        "answer": sample.answers[0],
        "accepted": list(sample.answers),
        "scorer": sample.scorer,
        "response": said,
        "extracted": extracted,
        # by the keys of the published file, for scorers that know only those
        "published_answer": published.get(sample.answers[0], sample.answers[0]),
        "published_extracted": published.get(extracted, extracted) if extracted is not None else None,
        "right": grade(extracted, sample.answers, sample.scorer, sample.options),
        "graded_by": "rule",
        "status": t.status if t else "broken",
        "opening": t.opening if t else "",
        "turns": [
            {"text": turn.text, "tokens": len(turn.ids)}
            | ({"box_view": turn.action.box_view, "box_px": turn.action.box_px} if isinstance(turn.action, Crop) else {})
            for turn in (t.turns if t else ())
        ],
        "crops": len(boxes),
        "visual_tokens": t.visual_tokens if t else None,
        "sampled_tokens": sum(t.sampled_mask) if t else None,
        # of every target the best crop (recall), of every crop the best target (precision); TreeBench publishes the first alone
        "iou_recall": _best(table) if graded else None,
        "iou_precision": _best(list(zip(*table, strict=True))) if graded and boxes else None,
        "meta": {key: sample.meta[key] for key in KEPT_META if key in sample.meta},
    }


def _best(table: Sequence[Sequence[float]]) -> float:
    """Mean over the rows of the best value in each, 0 in an empty one."""
    return sum(max(row, default=0.0) for row in table) / len(table)


def read_answer(t: Trajectory, sample: Sample, mode: str) -> str | None:
    """What a conversation answers by an extraction rule (`extraction.MODES`); None where that can't be told.

    A conversation that ended in a call answers nothing. One that was cut by the token limit answers nothing by the strict rule unless its
    answer is closed; the published rules read what there is.
    """
    text = t.turns[-1].text.removesuffix("<|im_end|>")
    if isinstance(t.turns[-1].action, Crop) or t.status is Status.OUT_OF_TURNS:
        return None
    if mode == "strict":
        if t.status is Status.OUT_OF_TOKENS:
            return None
        if ANSWER_OPEN in text and t.answer is None:  # opened and never closed
            return None
        return extract(text, sample.options, mode) if sample.options else final_answer(text) or None
    return extract(text, sample.options, mode)


def _judge(cfg: DictConfig, output: Path) -> Judge | None:
    if cfg.judge.url is None:
        return None
    endpoint = reached(cfg.judge)
    return Judge(endpoint, Path("outputs/judge") / f"{_name(endpoint.model)}.jsonl", output / "judge_disagreements.jsonl")


def _settings(cfg: DictConfig, weights: str) -> dict[str, Any]:
    """What a number means: everything without which it can't be compared with another."""
    e, r = cfg.evaluation, cfg.rollout
    return {
        "policy": cfg.policy.checkpoint,
        "weights": weights,
        "dialect": cfg.policy.dialect,
        "engine": r.engine,
        "data": cfg.data.source,
        "view_tokens": [cfg.view.min_tokens, cfg.view.max_tokens],
        "crop_tokens": [r.crop_min_tokens, r.crop_tokens],
        "max_crops": r.max_crops,
        "tokens_per_turn": r.tokens_per_turn,
        "temperature": e.temperature,
        "options": cfg.options,
        "extraction": cfg.extraction,
        "repeats": cfg.repeats,
        "judge": cfg.judge.model if cfg.judge.url else None,
        "seed": cfg.seed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {cfg.threads} threads",
    }


def _name(checkpoint: str) -> str:
    """A folder name for a policy: `outputs/stage1/policy` is stage1, `org/model` is model."""
    parts = Path(checkpoint).parts
    return parts[-2] if len(parts) > 1 and parts[-1] == "policy" else parts[-1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "evaluate")
