"""The model card beside an exported policy: what it says, and that no text of others is markup in it."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from transformers import AutoModelForImageTextToText

from focus.model import loading
from focus.report import provenance
from focus.report.card import Card, card_text, stated_licence
from focus.report.provenance import Start, command_of, remember_start, starts
from focus.report.table import Cell, Results, Row
from focus.runs import train
from tests.support.runs import settings

VERSIONS = {"focus": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
RESULTS = Results(
    "mine: base against trained",
    ("base", "trained", "trained - base"),
    (
        Row("accuracy, own crop", "%", (Cell(13.4, 10.6, 16.4), Cell(63.0, 58.8, 67.2), Cell(49.6, 44.8, 54.4))),
        Row("accuracy, noise crop", "%", (Cell(0.8, 0.2, 1.6), Cell(1.4, 0.4, 2.6), Cell(0.6, -0.6, 1.8))),
        Row("D_noise, own - noise", "pt", (Cell(12.6, 9.8, 15.6), Cell(61.6, 57.2, 66.0), Cell(49.0, 44.0, 54.0))),
        Row("crop rate", "%", (Cell(34.2, 30.2, 38.4), Cell(97.4, 96.0, 98.8), Cell(63.2, 59.0, 67.2))),
        Row("@64 crop rate", "%", (None, Cell(97.0, 95.4, 98.4), None)),
    ),
    ("500 held-out questions, temperature 1.0",),
)
CARD = Card(
    name="mine",
    base="Qwen/Qwen2.5-VL-7B-Instruct",
    base_hash="00112233aabbccdd",
    licence={"license": "apache-2.0"},
    source="scenes",
    questions=20000,
    digest="ddccbbaa33221100",
    updates=80,
    wanted=80,
    seed=3,
    rewards={"accuracy": 0.8, "format": 0.2, "tool": 1.2},
    gap="fixed, at most 16 visual tokens of the whole image",
    starts=(Start("python -m focus.train experiment=stage1 seed=3", "0123abc", VERSIONS),),
    results=RESULTS,
)
GOLDEN = """\
---
base_model: Qwen/Qwen2.5-VL-7B-Instruct
library_name: transformers
license: apache-2.0
tags:
- lfpc
- grpo
- image-text-to-text
---

# `mine`

A vision-language policy, trained by reinforcement learning with focus, an open implementation of LFPC (arXiv 2603.27494). It sees the \
whole image at few tokens, can request crops of the original, and answers.

## Training

- base: `Qwen/Qwen2.5-VL-7B-Instruct`, hash of its weights `00112233aabbccdd`
- data: `scenes`, 20,000 questions, digest `ddccbbaa33221100`
- updates: 80 of 80
- seed: 3
- reward, terms and weights: `accuracy` 0.8, `format` 0.2, `tool` 1.2
- gap: `fixed, at most 16 visual tokens of the whole image`
- commit: `0123abc`; versions: focus `0.1.0`, torch `2.13.0`, transformers `5.23.0`; command:
  ```
  python -m focus.train experiment=stage1 seed=3
  ```

## Measured

**Accuracy, crop rate, and what noise in place of the crop costs**

|  | base | trained | trained - base |
|---|---:|---:|---:|
| accuracy, own crop | 13.4 [10.6, 16.4] % | 63.0 [58.8, 67.2] % | 49.6 [44.8, 54.4] % |
| D_noise, own - noise | 12.6 [9.8, 15.6] pt | 61.6 [57.2, 66.0] pt | 49.0 [44.0, 54.0] pt |
| crop rate | 34.2 [30.2, 38.4] % | 97.4 [96.0, 98.8] % | 63.2 [59.0, 67.2] % |
| @64 crop rate | not run | 97.0 [95.4, 98.4] % | not run |

- `500 held-out questions, temperature 1.0`

## Licence

The weights derive from those of the base, so the licence of the base applies to them. The base states `apache-2.0`.
"""


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("\n---\n")[0])


def test_a_card_says_what_was_trained_on_what_by_what_and_how_good_it_is():
    assert card_text(CARD) == GOLDEN


def test_what_is_not_known_or_not_measured_is_said():
    text = card_text(replace(CARD, base="outputs/stage1/policy", licence={}, starts=(), results=None, updates=12))
    assert "## Measured\n\nnot measured\n" in text
    assert "- commit, versions and command: unknown\n" in text
    assert "- updates: 12 of 80\n" in text
    assert "is unknown: the base states none here" in text
    assert front_matter(text) == {"library_name": "transformers", "tags": ["lfpc", "grpo", "image-text-to-text"]}


def test_a_folder_is_no_model_of_the_hub_though_its_name_looks_like_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert front_matter(card_text(replace(CARD, base="mine/policy")))["base_model"] == "mine/policy"
    Path("mine/policy").mkdir(parents=True)
    assert "base_model" not in front_matter(card_text(replace(CARD, base="mine/policy")))


HOSTILE = st.text() | st.lists(
    st.sampled_from(
        ["# x", "<b>", "</b>", "<!--", "\n", "\n\n", "```", "`", "``", "---", "- ", "[a](b)", "![", "http://a.b", "|", "\\", "&amp;"]
    )
).map("".join)


@given(HOSTILE, HOSTILE)
def test_a_name_with_markup_or_lines_of_its_own_changes_nothing_of_a_card_but_the_code_that_shows_it(one, two):
    text, plain = naming(one, two), naming("one", "two")
    text.encode()
    assert front_matter(text) in (front_matter(plain), front_matter(plain) | {"base_model": two})
    assert shape(text) == shape(plain)


def naming(one: str, two: str) -> str:
    """The card with these two wherever a text of others may stand."""
    by = (Start(one, two, VERSIONS | {"focus": one}),)
    results = replace(RESULTS, notes=(two,))
    return card_text(replace(CARD, name=one, base=two, source=one, rewards={two: 1.0}, gap=one, starts=by, results=results))


def shape(text: str) -> list[str]:
    """Every piece of a card but what stands in code, as a Markdown reader sees it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text.partition("\n---\n")[2])
    pieces = [piece for token in tokens for piece in (token.children if token.type == "inline" else [token])]
    return [f"{piece.type} {'' if piece.type in ('code_inline', 'fence') else piece.content}" for piece in pieces]


def test_code_shows_the_text_in_one_line_and_a_command_as_it_is():
    text = card_text(replace(CARD, name="a `b`\n#1 \u202ec", starts=(Start("python -m focus.train 'name=a\n```\nb'", "c", VERSIONS),)))
    tokens = MarkdownIt("commonmark").enable("table").parse(text.partition("\n---\n")[2])
    assert tokens[1].children is not None and tokens[1].children[0].content == "a `b` #1  c"
    assert [token.content for token in tokens if token.type == "fence"] == ["python -m focus.train 'name=a\n```\nb'\n"]


def test_a_command_can_be_copied_and_holds_no_key():
    assert (
        command_of(["experiment=stage1", "name='it is mine'"]) == """python -m focus.train experiment=stage1 'name='"'"'it is mine'"'"''"""
    )
    secret = [
        "++judge.extra.headers={X-Mine: s3cret}",
        "judge.extra={x:s3cret}",
        "rollout.endpoint={extra:{x:s3cret}}",
        "judge.url=https://me:s3cret@host/v1",
        "judge.url='https://host/v1?code=s3cret'",
        "+logger.settings={x:s3cret}",
        "+trainer.callbacks=[{_target_:my.Own,api_key:s3cret}]",
    ]
    shown = ["logger=wandb", "judge.url=http://host:8000/v1", "judge.model=NAME", "judge.key_env=MY_KEY", "gap.view_tokens=16"]
    for word in secret:
        assert command_of([word]) == "python -m focus.train  # without settings that may hold a key"
    assert command_of([*shown, *secret]).startswith(command_of(shown) + "  #") and "#" not in command_of(shown)


# ------------------------------------------------------------------------------------------------------------ what a card reads


@pytest.mark.parametrize(
    ("card", "config", "stated"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "{}", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "{}", {"license": "other", "license_name": "qwen-research"}),
        (None, '{"license": "mit"}', {"license": "mit"}),
        (None, "{}", {}),
        ("no front matter", "{}", {}),
        ("---\nlicense: [mit]\n---\n", "{}", {}),
        ("---\nlicense: '<b> mit'\n---\n", "{}", {}),
        ("---\nlicense: {{\n---\n", '{"license": "mit"}', {"license": "mit"}),
        ("---\n- a list\n---\n", "[]", {}),
        ("---\na: " + 3000 * "[" + "\n---\n", "not JSON", {}),
    ],
)
def test_the_licence_is_what_the_card_or_the_config_of_the_base_states(card, config, stated, tmp_path):
    (tmp_path / "config.json").write_text(config)
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert stated_licence(str(tmp_path), str(tmp_path)) == stated


def test_the_embedded_base_is_ours():
    assert stated_licence("embedded", loading.checkpoint_path("embedded")) == {"license": "mit"}


def test_a_training_that_goes_on_with_other_code_names_both_and_with_the_same_one_once(tmp_path, monkeypatch):
    path = tmp_path / "trained_by.jsonl"
    for commit in ("aaa", "aaa", "bbb with changes", "aaa"):
        monkeypatch.setattr(provenance, "_commit", lambda commit=commit: commit)
        remember_start(path)
    assert [start.commit for start in starts(path)] == ["aaa", "bbb with changes"]
    path.write_text('half\n[]\n{"command": null, "commit": "c", "versions": []}\n' + path.read_text())
    assert [start.commit for start in starts(path)] == ["aaa", "bbb with changes"]


def test_the_commit_is_that_of_the_checkout_and_changes_are_said(tmp_path, monkeypatch):
    code = tmp_path / "code"
    (code / "conf").mkdir(parents=True)
    monkeypatch.setattr(provenance, "CONF", code / "conf")
    assert provenance._commit() == "unknown"
    git = ["git", "-C", str(code), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert provenance._commit() == head
    (code / "kept.json").touch()  # a result is no change of the code
    assert provenance._commit() == head
    (code / "conf/new.yaml").touch()
    assert provenance._commit() == f"{head} with changes"
    (code / "package/conf").mkdir(parents=True)
    monkeypatch.setattr(provenance, "CONF", code / "package/conf")
    assert provenance._commit() == "unknown"  # the repository around it is another one


# ------------------------------------------------------------------------------------------------------------------------ a run


def test_a_run_writes_its_card_beside_the_weights_and_a_second_start_the_same(tmp_path, random_policy):
    run, name = tmp_path / "run", "'# <b>mine</b>'"
    cfg = settings(run, random_policy, f"name={name}", "objective.updates=1")
    train.run(cfg)
    path = run / "policy/README.md"
    text, base = path.read_text(), loading.load_model(random_policy, "tiny").weights_hash()
    assert "# `# <b>mine</b>`\n" in text and f"hash of its weights `{base}`" in text
    assert f"`scenes`, 20,000 questions, digest `{(run / 'trained_on.txt').read_text()}`" in text
    assert "- updates: 1 of 1\n- seed: 0\n" in text and "`accuracy` 0.8, " in text
    accuracy = json.loads((run / "evaluation_trained_t1.json").read_text())
    assert accuracy and "| accuracy, own crop | " in text and "| D\\_noise" not in text and "| @64 crop rate | " in text
    assert "started from Python" in text and "transformers `" in text
    assert AutoModelForImageTextToText.from_pretrained(run / "policy") is not None
    assert loading.load_model(run / "policy", "tiny").weights_hash() != base
    path.unlink()
    train.run(cfg)
    assert path.read_text() == text
    assert not list((run / "policy").glob("*.partial"))
