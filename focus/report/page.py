"""One run as one HTML file: results, curves, trajectories, settings. It opens from disk and asks the network for nothing.

Every text of a model or a data set is escaped; pictures are inside the file; there is no script.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from focus.model.prompts import IMAGE_PAD, Malformed
from focus.report.picture import draw_trajectory
from focus.report.table import Results, cell_parts, unit_text
from focus.rewards import Example
from focus.rollout.trajectory import Trajectory, Turn

QUANTILE = re.compile(r"(.+)_p(\d+)$")
GROUPS = ("reward", "crop", "ending", "objective", "seconds", "tokens", "group", "probe", "alarm", "data")  # in this order, then all others
INK, LINE = "#010203", "#f76707"  # INK becomes the text colour of the page, light or dark
STYLE = """
:root { color-scheme: light dark; --paper: #fafafa; --card: #fff; --mat: #f3f4f6; --ink: #1f2328; --muted: #6b7280; --rule: #e3e5e8;
  --accent: #e8590c; --accent-pale: #fff4ec; --wrong: #c0362c; }
@media (prefers-color-scheme: dark) { :root { --paper: #101317; --card: #171b21; --mat: #1f242b; --ink: #e6e8eb; --muted: #98a1ad;
  --rule: #2b3138; --accent: #ff922b; --accent-pale: #2a2018; --wrong: #ff8a7d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -.01em; } h2 { margin: 3.2rem 0 .8rem; font-size: 1.25rem; }
h3 { margin: 1.8rem 0 .6rem; font-size: .8rem; color: var(--muted); letter-spacing: .08em; text-transform: uppercase; }
header p { margin: .2rem 0 1rem; } header p, .note, .none, small { color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding-bottom: .8rem; border-bottom: 1px solid var(--rule); }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
small { font-size: .82em; font-weight: 400; } .note { margin: .6rem 0; font-size: .87rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.results { width: 100%; } caption { padding: .3rem 0; text-align: left; color: var(--muted); }
.results th, .results td { padding: .55rem .9rem .5rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: baseline; }
.results th:first-child { padding-left: 0; text-align: left; font-weight: 500; } .results td { font-weight: 600; }
.results td small { display: block; white-space: nowrap; } td.none { font-weight: 400; }
.groups { display: flex; flex-wrap: wrap; gap: 0 .9rem; } .charts { display: flex; flex-wrap: wrap; gap: .9rem; }
figure { width: 15.2rem; margin: 0; padding: .7rem .8rem .4rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; }
figcaption { display: flex; gap: .4rem; align-items: baseline; font-size: .85rem; font-weight: 600; }
output { margin-left: auto; color: var(--accent); font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
article { margin: 1.2rem 0 2rem; overflow: hidden; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
article > img { display: block; width: 100%; height: auto; background: #fff; }
summary { padding: .7rem 1.1rem; color: var(--muted); cursor: pointer; } summary:hover { color: var(--ink); }
article details > :not(summary), article details > .note { margin: .7rem 1.1rem; }
pre { margin: 0; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
section > details > pre { padding: 1rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.question, .sampled, .tool { padding: .6rem .9rem; border-left: 3px solid var(--rule); border-radius: 0 6px 6px 0; background: var(--mat); }
.sampled { border-color: var(--accent); background: var(--accent-pale); } .tool pre, .given { color: var(--muted); }
article b { display: block; font-size: .78rem; font-weight: 600; color: var(--muted); } .sampled b { color: var(--accent); }
b small { margin-left: .6rem; }
.tool img { display: block; max-width: 100%; margin-top: .5rem; image-rendering: pixelated; }
.fault { margin: .3rem 0 0; color: var(--wrong); font-size: .85rem; }
.terms th { padding-right: 2rem; text-align: left; font-weight: 400; } .terms td { text-align: right; }
.terms .total > * { border-top: 1px solid var(--rule); font-weight: 600; }
"""
KINDS = {"best": "The highest total reward", "worst": "The lowest total reward", "random": "Drawn at random: what is usual"}


def write_page(
    path: Path,
    title: str,
    history: Sequence[Mapping[str, float]] | None,
    results: Results | None,
    examples: Mapping[str, Sequence[Example]],
    settings: str,
) -> None:
    """Write the page of a run or an evaluation; it appears whole or not at all, and an older one stays until then.

    `history` holds one row per update, in order, None for an evaluation; keys may be missing and values NaN. `examples` maps a kind
    (`best`, `worst`, `random`) to trajectories; `settings` is the resolved config as text.
    """
    shown = {kind: list(of_kind) for kind, of_kind in examples.items()}
    sections = [
        ("results", "Results", _results(results)),
        *([("curves", "Curves", _curves(history))] if history is not None else []),
        *(
            (f"examples-{number}", f"Trajectories: {kind}", _examples(kind, of_kind))
            for number, (kind, of_kind) in enumerate(shown.items())
        ),
        ("settings", "Settings", f"<details><summary>The resolved config</summary><pre>{escape(settings)}</pre></details>"),
    ]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>' for key, name, html in sections)
    updates = f"<p>{len(history)} update{'s' * (len(history) != 1)}</p>" if history is not None else ""
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{escape(title)}</h1>{updates}<nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")  # half of a surrogate pair is no UTF-8
    partial.replace(path)


def _results(results: Results | None) -> str:
    if results is None:
        return '<p class="none">The policy was not evaluated.</p>'
    head = "".join(f"<th>{escape(column)}</th>" for column in results.columns)
    rows = []
    for row in results.rows:
        cells = []
        for cell in row.cells:
            mean, interval = cell_parts(row, cell)
            muted = "" if cell and not math.isnan(cell.mean) else ' class="none"'
            unit = unit_text(row, cell) if cell and cell.unit else ""
            cells.append(f"<td{muted}>{escape(mean + unit)}<small>{escape(interval)}</small></td>")
        unit = f" <small>{escape(row.unit)}</small>" if row.unit else ""
        rows.append(f"<tr><th>{escape(row.metric)}{unit}</th>{''.join(cells)}</tr>")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in results.notes)
    verdicts = "".join(f"<p><strong>{escape(verdict)}</strong></p>" for verdict in results.verdicts)
    return (
        f'{verdicts}<div class="wide"><table class="results"><caption>{escape(results.title)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    """Small charts, one for each key, grouped by the part of the key before its slash; quantiles of one thing share a chart."""
    charts: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for row in history for key in row if key != "update"):
        group, _, name = key.rpartition("/")
        quantile = QUANTILE.match(name)
        charts.setdefault(group or "other", {}).setdefault(quantile[1] if quantile else name, []).append(key)
    if not charts:
        return '<p class="none">Nothing was logged.</p>'
    update = np.array([row.get("update", math.nan) for row in history], dtype=float)
    update = np.where(np.isfinite(update), update, np.arange(1, len(history) + 1))
    order = sorted(charts, key=lambda group: GROUPS.index(group) if group in GROUPS else len(GROUPS))
    html = []
    for group in order:
        drawn = "".join(_chart(name, keys, update, history) for name, keys in charts[group].items())
        html.append(f'<div><h3>{escape(group)}</h3><div class="charts">{drawn}</div></div>')
    return (
        '<p class="note">Pale: each update. Strong: the running mean; the number is where it ends. '
        "Bands: running means of quantiles.</p>"
        f'<div class="groups">{"".join(html)}</div>'
    )


def _chart(name: str, keys: Sequence[str], update: np.ndarray, history: Sequence[Mapping[str, float]]) -> str:
    quantiles = {key: int(found[2]) for key in keys if (found := QUANTILE.match(key))}
    keys = sorted(keys, key=lambda key: quantiles.get(key, 0))
    values = np.array([[row.get(key, math.nan) for row in history] for key in keys], dtype=float)
    values[~np.isfinite(values)] = math.nan
    measured = ~np.isnan(values).all(0)  # what is probed every so many updates is drawn where it was
    values, update = values[:, measured], update[measured]
    label = escape(name) + (f" <small>{', '.join(f'p{q}' for q in sorted(quantiles.values()))}</small>" if quantiles else "")
    if not measured.any():
        return f'<figure><figcaption>{label}</figcaption><p class="none">no value</p></figure>'
    smooth = np.stack([_running_mean(row) for row in values])
    middle = smooth[len(smooth) // 2]
    last = middle[~np.isnan(middle)][-1]
    return f"<figure><figcaption>{label}<output>{_brief(last)}</output></figcaption>{_svg(values, smooth, update)}</figure>"


def _brief(value: float, position: object = None) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _svg(values: np.ndarray, smooth: np.ndarray, update: np.ndarray) -> str:
    """A chart of `values` and their running means, each [key, update], as inline SVG: no background, text in the page's colour."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "focus", "font.size": 8}):
        figure = Figure(figsize=(2.6, 1.5))
        axes = figure.add_axes((0.19, 0.17, 0.75, 0.77))
        if len(values) > 1:
            axes.fill_between(update, np.fmin.reduce(smooth), np.fmax.reduce(smooth), color=LINE, alpha=0.18, linewidth=0)
        else:
            axes.plot(update, values[0], color=LINE, alpha=0.35, linewidth=0.8, marker="." if len(update) < 30 else "")
        for number, row in enumerate(smooth):
            axes.plot(update, row, color=LINE, linewidth=1.6 if number == len(smooth) // 2 else 0.7, marker="." if len(update) == 1 else "")
        if len(update) > 1:
            axes.set_xlim(update.min(), update.max())
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=INK, alpha=0.3)
        axes.tick_params(colors=INK, length=2, width=0.5)
        axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_brief))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg.replace(INK, "currentColor"), count=1)


def _running_mean(row: np.ndarray) -> np.ndarray:
    """Centred mean over about a twelfth of the updates; NaN is left out, and stays NaN where a window holds nothing else."""
    reach = len(row) // 24
    window = np.ones(2 * reach + 1)
    known = ~np.isnan(row)
    count = np.convolve(known, window)[reach : reach + len(row)]
    total = np.convolve(np.where(known, row, 0.0), window)[reach : reach + len(row)]
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)


def _examples(kind: str, examples: Sequence[Example]) -> str:
    lead = f'<p class="note">{KINDS[kind]}.</p>' if kind in KINDS else ""
    return lead + ("".join(map(_example, examples)) or '<p class="none">There is none.</p>')


def _example(example: Example) -> str:
    trajectory = example.trajectory
    told = f"{trajectory.sample.question} Answer: {trajectory.answer}. Accepted: {' | '.join(trajectory.sample.answers)}."
    terms = "".join(f"<tr><th>{escape(name)}</th><td>{_graded(value)}</td></tr>" for name, value in example.terms.items())
    turns = "".join(_turn(trajectory, number, turn) for number, turn in enumerate(trajectory.turns))
    sampled = sum(len(turn.ids) for turn in trajectory.turns)
    return (
        f'<article><img src="{_jpeg(draw_trajectory(example, 1400))}" alt="{escape(told)}" loading="lazy">'
        f"<details><summary>Every word and every term</summary>"
        f'<p class="question"><b>question</b>{escape(trajectory.sample.question)}{_options(trajectory)}</p>{turns}'
        f'<table class="terms">{terms}<tr class="total"><th>total</th><td>{_graded(example.total)}</td></tr></table>'
        f'<p class="note">{escape(trajectory.sample.id)}: {escape(trajectory.status)}, {sampled} sampled tokens, '
        f"{trajectory.visual_tokens} visual tokens, seed {trajectory.seed}</p></details></article>"
    )


def _graded(value: float) -> str:
    return "not graded" if math.isnan(value) else f"{value:.3f}"


def _options(trajectory: Trajectory) -> str:
    return "".join(f"<br>{escape(key)}. {escape(text)}" for key, text in trajectory.sample.options)


def _turn(trajectory: Trajectory, number: int, turn: Turn) -> str:
    """What the policy sampled, and what the tool put after it. The opening of a forced turn was not sampled either."""
    opening = trajectory.opening if number == 0 else ""
    given = f'<span class="given" title="put into its mouth, not sampled">{escape(opening)}</span>' if opening else ""
    fault = f'<p class="fault">not acted on: {escape(turn.action.fault)}</p>' if isinstance(turn.action, Malformed) else ""
    html = (
        f'<div class="sampled"><b>turn {number + 1}, sampled<small>{len(turn.ids)} tokens</small></b>'
        f"<pre>{given}{escape(turn.text.removeprefix(opening))}</pre>{fault}</div>"
    )
    if turn.observation is None:
        return html
    crop = turn.observation.crop
    text = turn.observation.content
    if crop:
        text = text.replace(IMAGE_PAD, f"{IMAGE_PAD} × {crop.tokens}")
    image = f'<img src="{_jpeg(crop.image)}" alt="the crop, {crop.size[0]} × {crop.size[1]} px">' if crop else ""
    return (
        f'{html}<div class="tool"><b>tool, not sampled<small>{len(turn.observation.ids)} tokens'
        f"{f', {crop.tokens} of them visual' if crop else ''}</small></b><pre>{escape(text)}</pre>{image}</div>"
    )


def _jpeg(image: Image.Image) -> str:
    out = io.BytesIO()
    image.convert("RGB").save(out, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
