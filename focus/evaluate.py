"""What a policy gets right on a data set, what that costs, and where it looked. `make evaluate CHECKPOINT=... DATA=vstar`.

An evaluation that is interrupted goes on where it stopped; one that is finished only shows its result again. Every question stays in the
denominator: an image that can't be read, an answer that can't be parsed and a request that a server refused are wrong.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from focus import config
from focus.answers import Rung
from focus.answers import graded as graded_by_rule
from focus.boxes import iou
from focus.data.options import shuffled
from focus.data.sample import Sample
from focus.dependence import Examiner, chunks
from focus.extraction import read_answer
from focus.gap import Gap, Mode
from focus.grading import Grader
from focus.judge import COUNTS, Case
from focus.report.evaluation import beside_the_paper, evaluation_table, said, summary, worst
from focus.report.page import write_page
from focus.report.run import measurement
from focus.report.table import markdown_table, print_table
from focus.rollout.loop import seed_of
from focus.rollout.served import OpenAIEngine, Served, view_seen
from focus.rollout.trajectory import Status
from focus.train import build_judge, held_out_samples, leaks_of, load_player, rules

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


def run(cfg: DictConfig) -> None:
    """Play every question in every arm, then grade; write predictions, numbers, tables and the page."""
    console = Console(markup=False)  # what is printed holds names and texts of others
    config.check(cfg, "evaluate")
    torch.set_num_threads(cfg.threads)
    samples: Sequence[Sample] = held_out_samples(cfg)
    for sentence in leaks_of(cfg, samples):
        console.print(sentence)
    published = samples
    if cfg.options == "shuffled":
        samples = Shuffled(samples, cfg.seed)
    model, engine = load_player(cfg)
    output = Path(cfg.output) if cfg.output else Path("outputs/evaluate") / _name(cfg.policy.checkpoint) / cfg.data.source
    e, most = cfg.evaluation, cfg.view.max_tokens or config.EMBEDDED_VIEW
    gap = Gap(Mode.FIXED, most, model.token_px, min_tokens=cfg.view.min_tokens)
    examiner = Examiner(model, engine, gap, rules(cfg, e.temperature), cfg.seed, e.arms, e.questions_per_forward, e.sigma)
    seen = {}
    if isinstance(model, Served) and isinstance(engine, OpenAIEngine):
        seen = {"view_seen": view_seen(model, engine, gap, samples, cfg.served.view_deviation)}
    with config.alone(output):
        played = Played(output / "played.jsonl", f"{measurement(cfg, model.weights_hash(), published)} {cfg.options}")
        ids: set[str] = set()
        for chunk in chunks(Repeated(samples, cfg.repeats), e.questions_per_forward, cfg.data.source):
            ids |= {sample.id for sample, _ in chunk}
            for repeat in dict.fromkeys(number for _, number in chunk):
                left = [sample for sample, number in chunk if number == repeat and (sample.id, number) not in played.done]
                if left:
                    played.add(_lines(examiner, left, repeat))
        lines = [line for line in played.lines() if line["repeat"] < cfg.repeats and line["id"] in ids]
        rows = [row for line in lines for row in graded(line, cfg.extraction)]
        judge = build_judge(cfg, output / "judge_disagreements.jsonl")
        _ask(Grader(judge), rows)
        refused = refusals(rows, cfg.served.refused)
        arms = [arm for arm in e.arms if arm not in refused]
        found = summary(rows, arms, e.resamples) | {"settings": _settings(cfg, model.weights_hash(), most) | seen, "refusals": refused}
        if judge:
            found["judge"] = {name: judge.counts[name] for name in COUNTS} | {"turned_away": dict(judge.turned_away)}
        write_whole(output / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_whole(output / "evaluation.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
        table, paper = evaluation_table(found), beside_the_paper(found, output.parent)
        write_whole(output / "evaluation.md", markdown_table(table) + "\n" + "\n".join(map(markdown_table, paper)))
        examples = worst(rows, samples, examiner, cfg.pictures)
        write_page(output / "report.html", table.title, None, table, examples, OmegaConf.to_yaml(cfg, resolve=True))
    print_table(table, console)
    console.print(f"table, beside the paper's: {output / 'evaluation.md'}   page: {output / 'report.html'}")
    console.print(f"numbers: {output / 'evaluation.json'}\npredictions: {output / 'predictions.jsonl'}")
    if refused:
        raise ValueError(
            "the server refused "
            + " and ".join(f"{share:.0%} of the questions of the arm {arm}" for arm, share in refused.items())
            + f", which may be at most {cfg.served.refused:.0%} (served.refused): what was measured is not this model. The reasons are "
            "above; what it was asked is kept, so remove that folder to ask again"
        )


def refusals(rows: Sequence[Mapping[str, Any]], most: float) -> dict[str, float]:
    """The arms of which a larger share than `most` was refused by the server, and that share."""
    shares = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row["status"] == Status.REFUSED for row in rows if row["arm"] == arm]
        shares[arm] = sum(of_arm) / len(of_arm)
    return {arm: share for arm, share in shares.items() if share > most}


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


class Played:
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
        write_whole(measured, identity)
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


def _lines(examiner: Examiner, chunk: Sequence[Sample], repeat: int) -> list[dict[str, Any]]:
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
                    arm: said(arms[arm]) if arms else None for arm in dict.fromkeys(("own", *examiner.arms)) if arm != "gt" or sample.boxes
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


def _settings(cfg: DictConfig, weights: str, most: int) -> dict[str, Any]:
    """What a number means: everything without which it can't be compared with another."""
    e, r = cfg.evaluation, cfg.rollout
    return {
        "policy": cfg.policy.checkpoint,
        "weights": weights,
        "dialect": cfg.policy.dialect,
        "engine": r.engine,
        "data": cfg.data.source,
        "view_tokens": [cfg.view.min_tokens, most],
        "crop_tokens": [r.crop_min_tokens, r.crop_tokens],
        "max_crops": r.max_crops,
        "tokens_per_turn": r.tokens_per_turn,
        "temperature": e.temperature,
        "samples": e.samples,
        "side_by_side": min(e.questions_per_forward, r.endpoint.concurrency) if r.engine == "openai" else e.questions_per_forward,
        "derived_boxes": cfg.data.derive_boxes,
        "options": cfg.options,
        "extraction": cfg.extraction,
        "repeats": cfg.repeats,
        "judge": cfg.judge.model if cfg.judge.url else None,
        "seed": cfg.seed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {cfg.threads} threads",
    }


def _name(checkpoint: str) -> str:
    """A folder name for a policy: `outputs/stage1/policy` is stage1, `org/model` is model. It leads nowhere else."""
    parts = [part for part in Path(checkpoint).parts if part not in ("/", "..")] or ["policy"]
    return parts[-2] if len(parts) > 1 and parts[-1] == "policy" else parts[-1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "evaluate")
