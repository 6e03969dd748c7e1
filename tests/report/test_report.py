"""What a run looked like: pictures, the page, tables and what the loggers receive."""

import io
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from rich.console import Console

from focus.data.images.original import Decoded
from focus.evaluation.outcome import METRICS, Outcome
from focus.gap import resize_to_budget
from focus.model.prompts import Fault, Malformed, error_content
from focus.report.dashboard import TrajectoryTable, evenly_spaced
from focus.report.glossary import meanings
from focus.report.page import write_page
from focus.report.picture import CROP_COLOURS, draw_trajectory, draw_view
from focus.report.provenance import facts_text
from focus.report.sweep import Point, draw, panels_of, write_sweep_page
from focus.report.table import Cell, Results, Row, cell_parts, markdown_table, print_table
from focus.report.verdict import conflict_sentence, dependence_sentence, judge_conflict, judge_dependence, verdict_of
from focus.rewards import Example, Scores, examples
from focus.rewards.terms import total
from focus.rollout.trajectory import Observation, Status
from tests.support.examples import TOKEN_PX, opened, right, said, wrong, zoomed


def page(folder: Path, history=(), results=None, examples=None, settings: str = "gap:\n  view_tokens: 16") -> str:
    write_page(folder / "report.html", "a run", history, results, examples or {}, settings)
    return (folder / "report.html").read_text()


RESULTS = Results(
    "held-out questions",
    ("base", "stage 1"),
    (Row("accuracy", "%", (Cell(71.2, 67.4, 75.0), None)), Row("iou", "", (Cell(math.nan, math.nan, math.nan), Cell(0.5, 0.45, 0.55)))),
)


def is_coloured(pixel: tuple[int, ...], colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return all(abs(seen - value) < 40 for seen, value in zip(pixel, wanted, strict=True))


def test_the_box_of_a_crop_is_drawn_where_it_lies_in_the_original():
    view = draw_view(right().trajectory, side_px=448)  # the original is 448 wide, so its pixels are those of the picture
    assert all(is_coloured(view.getpixel(point), CROP_COLOURS[0]) for point in ((110, 160), (225, 160), (160, 110), (160, 225)))
    assert not is_coloured(view.getpixel((60, 160)), CROP_COLOURS[0])


def test_the_box_stays_there_where_crops_are_cut_from_the_view():
    trajectory = replace(right().trajectory, source=Decoded(right().trajectory.view.image))  # gap=off
    assert np.array_equal(np.asarray(draw_view(trajectory)), np.asarray(draw_view(right().trajectory)))


def test_the_view_is_enlarged_without_smoothing():
    trajectory = replace(opened(), sample=replace(opened().sample, boxes=()))
    seen = {tuple(pixel) for pixel in np.asarray(trajectory.view.image).reshape(-1, 3)}
    assert {tuple(pixel) for pixel in np.asarray(draw_view(trajectory, side_px=448)).reshape(-1, 3)} == seen


def test_a_long_turn_takes_one_line_of_the_picture_as_a_short_one_does():
    rambling = wrong("I\tsee\n\n" + "a very long thought, " * 5000 + "\ud800 \x00 <answer>")
    assert draw_trajectory(rambling).size == draw_trajectory(wrong("short")).size


def test_a_picture_holds_any_number_of_crops_and_terms_and_any_shape_of_view():
    trajectory = opened()
    for shift in range(6):
        trajectory = zoomed(trajectory, (10.0 * shift, 0.0, 10.0 * shift + 28, 300.0))
    strip = replace(trajectory, view=resize_to_budget(Decoded(trajectory.source.reduced((448, 28))), 16, TOKEN_PX))
    for shown in (trajectory, strip, replace(strip, turns=())):
        assert draw_trajectory(Example(shown, {f"term {i}": i / 7 for i in range(20)}, 1.0), width_px=640).width == 640


def test_a_picture_too_narrow_for_its_text_is_refused():
    with pytest.raises(ValueError, match="at least 400 px"):
        draw_trajectory(right(), width_px=100)


def test_the_page_asks_the_network_for_nothing(tmp_path):
    history = [{"update": u, "reward/total": u / 10, "crop/area_p10": 0.1, "crop/area_p50": 0.2, "crop/area_p90": 0.3} for u in (1.0, 2.0)]
    html = page(tmp_path, history, RESULTS, {"best": [right()]})
    assert not re.search(r"""(src|href|action|url)\s*[=(]\s*["']?\s*(https?:)?//""", html)
    assert not re.search(r"<(link|iframe|object|embed)\b|@import|fetch\(|XMLHttpRequest", html)
    assert re.findall(r"<script\b[^>]*>", html) == ["<script>"]  # ours, inside the page
    assert html.count('role="img"') == 2  # the total, and one chart for the three quantiles
    assert "data:image/png;base64," in html


def test_text_of_models_data_and_settings_is_escaped(tmp_path):
    hostile = '<script>alert(1)</script><img src=x onerror=alert(2)>"'
    example = wrong(hostile)
    sample = replace(example.trajectory.sample, question=hostile, answers=(hostile,), options=((hostile, hostile),))
    example = replace(example, trajectory=replace(example.trajectory, sample=sample), terms={hostile: 1.0}, caption=hostile)
    results = Results(hostile, (hostile,), (Row(hostile, hostile, (None,)),), (hostile,))
    write_page(tmp_path / "report.html", hostile, [{f"a/{hostile}": 1.0, hostile: 2.0}], results, {hostile: [example]}, hostile, hostile)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<script") == 1 and "<img src=x" not in html  # one is the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_sampled_text_stands_apart_from_what_the_tool_and_the_opening_put_there(tmp_path):
    forced = replace(opened(), prefill="<tool_call>")
    trajectory = said(
        forced, "<tool_call>{}", Malformed(Fault.NOT_JSON), Status.OPEN, Observation((1,), None, error_content(Fault.NOT_JSON))
    )
    html = page(tmp_path, examples={"random": [Example(trajectory, {}, 0.0)]})
    sampled, tool = html.split('<div class="sampled">')[1].split('<div class="tool">')
    assert re.search(r'class="given"[^>]*>&lt;tool_call&gt;</span>{}</pre>', sampled)
    assert "Error: the call is not JSON. No image." in tool and "Error" not in sampled


def test_missing_keys_and_values_that_are_no_numbers_survive(tmp_path):
    history = [{"update": 1.0, "reward/total": math.nan}, {"crop/rate": 0.5, "loss": math.inf}, {"update": 3.0, "reward/total": 0.5}]
    html = page(tmp_path, history)
    assert html.count('role="img"') == 2
    assert "No value: other/loss." in html  # it was never finite


def test_a_run_without_updates_results_and_trajectories_has_a_page(tmp_path):
    html = page(tmp_path, examples={"best": []})
    assert "0 updates" in html and "Nothing was logged" in html and "not evaluated" in html and "There is none" in html


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    assert "odd" in page(tmp_path, examples={"worst": [wrong("odd \ud800 text")]})


def test_an_interrupted_write_leaves_no_page_and_keeps_an_older_one(tmp_path, monkeypatch):
    def interrupted(*_: object) -> Iterator[Example]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        page(tmp_path)
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "report.html").write_text("older")
    with pytest.raises(KeyboardInterrupt):
        page(tmp_path)
    assert (tmp_path / "report.html").read_text() == "older"


def test_a_missing_cell_prints_not_run_everywhere(tmp_path):
    console = Console(width=100, record=True, file=io.StringIO())
    print_table(RESULTS, console)
    shown = {"terminal": console.export_text(), "markdown": markdown_table(RESULTS), "page": page(tmp_path, results=RESULTS)}
    assert [place for place, text in shown.items() if "not run" not in text or "n/a" not in text] == []


def test_a_cell_prints_its_mean_its_interval_and_its_unit():
    console = Console(width=100, record=True, file=io.StringIO())
    print_table(RESULTS, console)
    for text in (console.export_text(), markdown_table(RESULTS)):
        assert "71.2 [67.4, 75.0] %" in text and "0.500 [0.450, 0.550]" in text


def test_a_bar_in_a_name_does_not_break_a_markdown_row():
    assert "a \\| b" in markdown_table(Results("t", ("a | b",), (Row("m", "", (None,)),)))


def test_a_row_needs_a_cell_for_every_column():
    with pytest.raises(ValueError, match="'iou' has 1 cells for 2 columns"):
        Results("t", ("base", "stage 1"), (Row("iou", "", (None,)),))


def trained(callback: TrajectoryTable, loggers: list, updates: int, rank_zero: bool = True, batches_per_update: int = 1) -> None:
    trainer = SimpleNamespace(is_global_zero=rank_zero, loggers=loggers)
    for update in range(1, updates + 1):
        module = SimpleNamespace(updates_done=update, last_examples=[right(), wrong(), right(4)])
        for batch in range(batches_per_update):
            callback.on_train_batch_end(trainer, module, None, None, batch)  # type: ignore[arg-type]


class Board(TensorBoardLogger):
    """A TensorBoard that writes down the pictures that it was given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pictures: list[tuple[str, int, tuple[int, ...]]] = []

    @property
    def experiment(self):  # type: ignore[override]
        return SimpleNamespace(add_image=lambda tag, image, global_step, dataformats: self.pictures.append((tag, global_step, image.shape)))


def test_tensorboard_gets_pictures_every_few_updates_from_rank_zero_alone(tmp_path):
    board = Board(tmp_path)
    trained(TrajectoryTable(every_updates=2, rows=2), [board], updates=5, batches_per_update=2)
    trained(TrajectoryTable(every_updates=2, rows=2), [board], updates=5, rank_zero=False)
    assert [(tag, step) for tag, step, _ in board.pictures] == [(f"trajectories/{i}", step) for step in (2, 4) for i in (0, 1)]
    assert all(shape[1:] == (1000, 3) for _, _, shape in board.pictures)


def test_without_a_wandb_logger_wandb_is_never_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would now raise
    trained(TrajectoryTable(every_updates=1, rows=1), [CSVLogger(tmp_path), Board(tmp_path)], updates=1)
    assert not list(tmp_path.rglob("*.csv"))


def test_rows_are_spread_over_the_update():
    examples = [replace(right(), total=float(i)) for i in range(8)]
    assert [example.total for example in evenly_spaced(examples, 4)] == [0.0, 2.0, 4.0, 6.0]
    assert [example.total for example in evenly_spaced(examples[:3], 4)] == [0.0, 1.0, 2.0]


def test_a_table_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="rows of TrajectoryTable is 0"):
        TrajectoryTable(rows=0)


def test_wandb_offline_writes_a_table(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for key, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": str(tmp_path),
        "WANDB_CONFIG_DIR": str(tmp_path),
        "WANDB_DATA_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)
    try:
        trained(TrajectoryTable(every_updates=2, rows=3), [WandbLogger(project="focus", save_dir=tmp_path)], updates=2)
    finally:
        wandb.finish()
    (preview,) = tmp_path.glob("wandb/offline-run-*/files/media/table/trajectories_*.table.json")
    table = json.loads(preview.read_text())
    described = ["update", "question", "view", "crops", "text", "answer", "accepted"]
    assert table["columns"] == [*described, "accuracy", "tool", "grounding", "total"]
    assert len(table["data"]) == 3
    first, second, _ = (dict(zip(table["columns"], row, strict=True)) for row in table["data"])
    assert first["update"] == 2 and first["answer"] == first["accepted"] and first["crops"] is not None
    assert second["crops"] is None and second["answer"] is None and "<script>" in second["text"]
    staged = [file.read_bytes() for file in tmp_path.glob("artifacts/staging/*")]  # what `wandb sync` would upload
    assert sum(content.startswith(b"\x89PNG") for content in staged) == 5  # three views, two strips of crops


# ------------------------------------------------------------------------------------------------- the verdict in words


@pytest.mark.parametrize(
    ("points", "low", "high", "questions", "verdict"),
    [
        (25.0, 1.0, 50.0, 12, "It looks"),
        (25.0, 0.0, 50.0, 12, "Undecided"),  # the interval touches 0
        (3.0, 0.5, 5.5, 500, "Undecided"),  # above 0, and neither small for sure nor large
        (3.0, 1.0, 4.9, 500, "It does not"),  # above 0, but smaller than what counts
        (-1.6, -3.2, -0.2, 500, "It does not"),
        (0.0, -4.999, 4.999, 73, "It does not"),  # no answer changed: 3.84 / (73 + 3.84)
        (0.0, -5.065, 5.065, 72, "Undecided"),  # no change was seen, but 5 points can't be excluded
        (-1.4, -4.2, 0.0, 72, "Undecided"),  # one answer changed: nor can they here, whatever the resampled interval says
        (5.0, 4.0, 6.0, 500, "It looks"),
        (math.nan, math.nan, math.nan, 500, "Undecided"),
    ],
)
def test_the_verdict_compares_the_loss_and_its_interval_with_zero_and_with_five_points(points, low, high, questions, verdict):
    assert judge_dependence(points, low, high, questions) == verdict


def test_the_sentence_of_a_verdict_has_the_numbers_it_rests_on():
    assert dependence_sentence((25, 12, 38), 0.33, "at 16 tokens", 500) == (
        "It looks: replacing its crop by noise costs 25 points [12, 38] at 16 tokens (33 % of answers used a crop)."
    )
    assert dependence_sentence((8, -4, 21), 0.5, "at 64 tokens", 12).endswith("(50 % of answers used a crop); 12 questions are too few.")
    few = dependence_sentence((0, -49, 49), 0.0, "at 16 tokens", 4)
    assert few == "Undecided: it made no crop in 4 questions at 16 tokens, which are too few."
    assert dependence_sentence((0, 0, 0), 0.0, "at 16 tokens", 500) == "It does not: it made no crop in 500 questions at 16 tokens."
    assert dependence_sentence((math.nan, math.nan, math.nan), 0.5, "at 16 tokens", 500) == (
        "No verdict at 16 tokens: the arm noise was not played (evaluation.arms)."
    )


@pytest.mark.parametrize(
    ("crop", "whole", "verdict"),
    [
        ((73.0, 67.7, 77.7), (0.0, 0.0, 1.3), "It looks"),
        ((55.0, 50.1, 60.0), (30.0, 25.0, 35.0), "It looks"),  # in most cases, though not always
        ((55.0, 50.0, 60.0), (0.0, 0.0, 3.0), "Undecided"),  # the interval touches one half
        ((40.3, 34.9, 45.9), (9.7, 6.8, 13.6), "It does not"),
        ((40.3, 34.9, 50.0), (9.7, 6.8, 13.6), "Undecided"),
        ((40.3, 34.9, 45.9), (4.9, 3.0, 8.0), "Undecided"),  # it gives neither answer: it may look and misread
        ((10.0, 7.0, 14.0), (5.0, 3.0, 8.0), "It does not"),
        ((math.nan,) * 3, (math.nan,) * 3, "Undecided"),
    ],
)
def test_in_conflict_a_policy_looks_if_most_answers_are_the_crops_and_does_not_if_few_are_and_some_are_the_wholes(crop, whole, verdict):
    assert judge_conflict(crop, whole) == verdict


def test_the_sentence_of_a_conflict_has_the_numbers_it_rests_on():
    assert conflict_sentence((73.0, 67.7, 77.7), (0.3, 0.1, 1.9), 300, 0.98, "at 256 tokens", 500) == (
        "It looks: where its crop contradicts the whole image, 73 % of answers [68, 78] are the crop's and 0 % [0, 2] the whole's "
        "at 256 tokens (300 crops that hit in 500 questions; 98 % of answers used a crop)."
    )


def test_conflict_decides_where_a_crop_hit_and_noise_where_none_did():
    columns = {"own": [1.0] * 80, "noise": [0.0] * 80, "called": [1.0] * 80, "conflict_crop": [1.0] * 20 + [math.nan] * 60}
    values = {metric: columns.get(metric, [math.nan] * 80) for metric in METRICS}
    outcome = Outcome(16, [str(n) for n in range(80)], values | {"conflict_whole": [0.0] * 20 + [math.nan] * 60})
    assert verdict_of(outcome, 20).startswith("It looks: where its crop contradicts the whole image, 100 % of answers [84, 100]")
    without = replace(outcome, values=outcome.values | {"conflict_crop": [math.nan] * 80})
    assert verdict_of(without, 20).startswith("It looks: replacing its crop by noise costs 100 points")


WIDE = Results(
    "mine: base against trained",
    ("base", "trained", "trained - base"),
    (
        Row("accuracy, own crop", "%", (Cell(13.4, 10.6, 16.4), Cell(63.0, 58.8, 67.2), Cell(49.6, 44.8, 54.4, "pt")), main=True),
        Row("@256 accuracy, own crop", "%", (Cell(80.2, 76.6, 83.8), Cell(72.4, 68.6, 76.4), Cell(-7.8, -12.0, -3.4, "pt")), main=True),
        Row("accuracy, blank crop", "%", (None, None, None)),
    ),
    verdicts=("It looks: ...",),
)


@pytest.mark.parametrize("width", [120, 80, 50, 34])
def test_a_terminal_of_any_width_shows_the_main_rows_with_every_interval_and_the_verdict(width):
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(WIDE, console)
    shown = console.export_text()
    for row in WIDE.rows[:2]:
        assert all(cell_parts(row, cell)[1] in shown for cell in row.cells)
    assert "It looks" in shown and "blank" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_difference_of_percentages_is_in_points(tmp_path):
    assert "| 13.4 [10.6, 16.4] % | 63.0 [58.8, 67.2] % | 49.6 [44.8, 54.4] pt |" in markdown_table(WIDE)
    assert "49.6 pt" in page(tmp_path, results=WIDE)


def test_the_verdict_stands_in_markdown_and_on_the_page(tmp_path):
    assert "It looks: ..." in markdown_table(WIDE) and "It looks: ..." in page(tmp_path, results=WIDE)


# ------------------------------------------------------------------------------------------------- rewards that add up


def paid() -> Example:
    """A crop and a wrong answer: the bonus stays behind its gate, the information gain is only logged."""
    weights = {"accuracy": 0.8, "format": 0.2, "tool": 1.2, "information_gain": 0.0}
    raw = {"accuracy": 0.0, "format": -1.0, "tool": 1.0, "information_gain": 0.58}
    gates = {"accuracy": None, "format": None, "tool": "accuracy", "information_gain": None}
    scores = Scores({name: [value] for name, value in raw.items()}, [total(raw, weights, gates)], weights, gates)
    [example] = examples([right().trajectory], scores)
    return example


def test_what_the_terms_of_an_example_add_is_its_total_and_a_logged_term_adds_nothing():
    example = paid()
    assert {name: (p.weight, p.amount, p.closed_gate) for name, p in example.payments.items()} == {
        "accuracy": (0.8, 0.0, None),
        "format": (0.2, -0.2, None),
        "tool": (1.2, 0.0, "accuracy"),
    }
    assert sum(p.amount for p in example.payments.values()) == example.total == -0.2


def test_the_page_shows_weight_gate_and_contribution_of_every_term(tmp_path):
    html = " ".join(page(tmp_path, examples={"worst": [paid()]}).split())
    assert '<th scope="row">tool</th><td>1.000</td><td>1.2, gate closed (accuracy)</td><td>0.000</td>' in html
    assert '<tr class="logged"><th scope="row">information_gain</th><td>0.580</td><td>logged only</td><td></td>' in html
    assert "<td>-0.200</td></tr>" in html


def test_the_curves_that_matter_come_first_and_those_that_are_always_0_are_one_line(tmp_path):
    history = [
        {"update": u, "objective/loss": -u, "reward/total": u / 2, "ending/refused": 0.0, "data/broken": 0.0, "crop/rate": 0.5}
        for u in (1.0, 2.0)
    ]
    first, folded = page(tmp_path, history).split('<section id="curves">')[1].split("</section>")[0].split("<details")
    assert [name for name in ("reward/total", "crop/rate", "objective/loss") if f">{name}" in first] == ["reward/total", "crop/rate"]
    assert "1 more curve<" in folded and ">objective/loss" in folded and "Always 0: ending/refused, data/broken." in folded
    assert 'data-points="[[1.0, 0.5], [2.0, 1.0]]"' in first  # what the pointer reads out
    assert 'title="mean reward of a rollout"' in first  # from docs/metrics.md


def test_main_rows_stand_above_the_table_as_numbers_from_column_to_column(tmp_path):
    rows = (Row("crop rate", "%", (Cell(34.0, 30.0, 38.0), Cell(97.0, 95.0, 99.0), Cell(63.0, 59.0, 67.0, "pt")), main=True), WIDE.rows[2])
    html = page(tmp_path, results=Results("t", ("base", "trained", "trained - base"), rows))
    [tiles] = re.findall(r'<dl class="tiles">(.*?)</dl>', html, re.DOTALL)
    assert '<dt title="share of questions with a crop">crop rate</dt><dd>34.0 → 97.0 <small>%</small></dd>' in tiles
    assert "base → trained" in tiles and tiles.count("<dt") == 1


def test_a_card_is_text_with_the_view_the_crops_and_their_boxes(tmp_path):
    example = right()
    html = page(tmp_path, examples={"best": [example], "worst": [wrong("short")]})
    card, other = re.findall(r"<article.*?</article>", html, re.DOTALL)
    assert 'data-tags="right|with a crop|' in card and 'data-tags="wrong|without a crop"' in other
    assert example.trajectory.sample.question in re.sub(r"<[^>]*>", "", card) and "The policy made no crop." in other
    assert f'<rect class="asked-for" stroke="{CROP_COLOURS[0]}"  x="112" y="112" width="112" height="112"/>' in card
    assert card.count("<img") == 2 and "accepted: " in card and "update 7" in card


def test_the_page_says_when_and_how_it_was_made(tmp_path):
    made = {"date": "2026-11-29", "commit": "0123456789" * 4, "versions": {"torch": "2.13"}, "machine": "Linux, 2 cores", "seconds": 1234.5}
    assert facts_text(made) == "2026-11-29 | commit 012345678 | torch 2.13 | Linux, 2 cores | 1,234 s"
    write_page(tmp_path / "report.html", "a run", [], None, {}, "", facts_text(made))
    assert "2026-11-29 | commit 012345678" in (tmp_path / "report.html").read_text()


def test_words_of_a_page_are_explained_as_in_the_documentation():
    assert meanings()["accuracy, own crop"] == meanings()["own"] == "right answers when the policy plays freely"
    assert (
        meanings()["D_noise"].startswith("how much answers depend on")
        and meanings()["crop/area_p50"] == "quantiles of crop area / image area"
    )


def test_charts_have_titles_and_header_cells_a_scope(tmp_path):
    html = page(tmp_path, [{"update": 1.0, "reward/<total>": 0.5}], RESULTS)
    assert "<title>reward/&lt;total&gt; over updates 1 to 1; it ends at 0.5</title>" in html and 'role="img"' in html
    assert "<th>" not in html and '<th scope="col">base</th>' in html


def test_a_chart_draws_each_value_where_the_axes_say(tmp_path):
    """Updates 1 to 3 lie on the axis from 46 to 236; 0 to 2 and a margin of 0.1 on that from 122 up to 8."""
    html = page(tmp_path, [{"update": u, "reward/total": u - 1} for u in (1.0, 2.0, 3.0)])
    assert '<path class="mean" d="M46.0 116.8L141.0 65.0L236.0 13.2"/>' in html
    assert '<text class="row" x="41" y="120.8">0</text>' in html and '<text class="column" x="141.0" y="138">2</text>' in html


def test_the_page_of_a_sweep_shows_its_panels_groups_seeds_and_links_finished_points(tmp_path):
    points = []
    for seed, view in ((0, 16), (0, 256), (1, 16)):
        folder = tmp_path / f"gap.view_tokens={view},seed={seed}"
        folder.mkdir()
        outcome = Outcome(view, groups=["a"])
        outcome.values = {metric: [0.5 + 0.25 * seed] for metric in METRICS}
        points.append(Point({"gap.view_tokens": str(view), "seed": str(seed)}, folder, "finished", {"own": outcome, "common": outcome}))
    (points[0].folder / "report.html").write_text("its page")
    metrics = ["own", "D_noise", "called"]
    figure = draw(points, panels_of(points, metrics))
    assert len([axis for axis in figure.axes if axis.get_visible()]) == 6  # three metrics at two views
    assert {axis.get_subplotspec().get_geometry()[1] for axis in figure.axes} == {4}
    write_sweep_page(tmp_path / "sweep.html", "<sweep>", points, metrics, "3 points")
    html = (tmp_path / "sweep.html").read_text()
    assert html.count(">open</a>") == 1 and 'href="gap.view_tokens%3D16%2Cseed%3D0/report.html"' in html
    assert "&lt;sweep&gt;" in html and html.count('<img src="data:image/svg+xml;base64,') == 6
    assert 'alt="accuracy, own crop, %, own view, over gap.view_tokens"' in html
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)]
    assert [row[:3] for row in rows[1:]] == [
        *(["16", "mean", "of"], ["16", "0", "finished"], ["16", "1", "finished"]),
        ["256", "0", "finished"],
    ]
    assert rows[1][4] == "62.5"  # of 50 and 75
