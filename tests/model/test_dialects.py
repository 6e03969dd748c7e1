"""Dialects as files: the ones that ship, those that a user writes, and an agent's own prompts."""

import hashlib
import json
import subprocess
import sys

import pytest
import yaml

from focus.data.boxes import Frame
from focus.model.dialect import DIALECTS, FIXED, NEWER, Dialect, DialectError, Texts, dialect_names, read_dialect
from focus.model.loading import EMBEDDED, load_model
from focus.model.prompts import (
    CROP_CONTENT,
    Call,
    Fault,
    Malformed,
    call_body,
    error_content,
    observation_text,
    parse,
    question_text,
    reply_text,
)

TEXTS = {
    "system": "Look closer.",
    "system_without_tool": "Look.",
    "before": "Q: ",
    "after": " Now.",
    "after_without_tool": "",
    "crop_reply": "crop {number}, after {index}: {content}",
    "error_reply": "no crop: {content}",
}
AGENT = {
    "frame": "fraction",
    "token_px": 14,
    "call": ["<look>", "</look>"],
    "tool": "look",
    "box_argument": "where",
    "image_arguments": ["image"],
    "original_name": "photo",
    "crop_name": "crop-{number}.png",
} | TEXTS


def written(path, content) -> str:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return str(path)


def test_the_dialects_that_ship_are_the_files_of_conf_and_each_can_be_read():
    own = ["qwen2_5_vl", "qwen3_5", "qwen3_vl", "tiny"]
    agents = ["adaptvision", "deepeyes", "ergo", "mini_o3", "p2r", "pixel_reasoner", "qwen3_vl_zoom", "sensenova_mars"]
    assert dialect_names() == sorted(own + agents)
    for name in dialect_names():
        assert read_dialect(name).name == name


@pytest.mark.parametrize("name", dialect_names())
def test_a_dialect_is_our_own_or_says_whose_texts_it_paraphrases(name):
    dialect = read_dialect(name)
    assert (dialect.paraphrase_of is None) == (name in FIXED)
    assert dialect.words == ("dialect" if name in FIXED else "own words")
    assert [note.startswith("asked in own words") for note in dialect.notes] == [True] * (name not in FIXED)


def test_an_agent_of_ones_own_is_a_yaml_file(tmp_path):
    dialect = read_dialect(written(tmp_path / "agent.yaml", AGENT))
    assert dialect.frame is Frame.FRACTION and dialect.token_px == 14
    assert question_text(dialect, "What is it?") == (
        "<|im_start|>system\nLook closer.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q: What is it? Now.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert question_text(dialect.without_tool(), "What is it?") == (
        "<|im_start|>system\nLook.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q: What is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert reply_text(dialect, CROP_CONTENT, 2) == f"crop 3, after 2: {CROP_CONTENT}"
    assert reply_text(dialect, error_content(Fault.NO_BOX), 2) == "no crop: Error: where must be four finite numbers. No image."
    assert dialect.notes == ()


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ({}, 0),
        ({"image": "photo"}, 0),
        ({"image": "crop-2.png"}, 2),
        ({"image": 2}, 2),
        ({"image": 2.0}, 2),
        ({"image": "2"}, 2),
        ({"image": "observation_2"}, -1),
        ({"image": "crop-two.png"}, -1),
        ({"image": -1}, -1),
        ({"image": True}, -1),
        ({"image": 1000}, -1),
        ({"image": None}, -1),
        ({"source": 2}, 0),  # no argument of this tool
    ],
)
def test_a_call_is_read_by_the_names_of_its_dialect(tmp_path, arguments, source):
    dialect = read_dialect(written(tmp_path / "agent.yaml", AGENT))
    body = {"name": "look", "arguments": {"where": [0, 0, 0.5, 1]} | arguments}
    assert parse(f"<look>{json.dumps(body)}</look>", dialect) == Call((0, 0, 0.5, 1), source)
    assert parse(f"<tool_call>{json.dumps(body)}</tool_call>", dialect) == Malformed(Fault.NO_ACTION)
    assert parse('<look>{"name": "look", "arguments": {"bbox_2d": [0, 0, 1, 1]}}</look>', dialect) == Malformed(Fault.NO_BOX)


XML = AGENT | {"call_format": "xml", "opening": "<think>\n"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<function=look><parameter=where>[0, 0, 0.5, 1]</parameter></function>", Call((0, 0, 0.5, 1))),
        ("\n<function=look>\n<parameter=where>\n[0, 0, 0.5, 1]\n</parameter>\n</function>\n", Call((0, 0, 0.5, 1))),
        (
            "<function=look><parameter=image>\ncrop-2.png\n</parameter><parameter=where>[0, 0, 1, 1]</parameter></function>",
            Call((0, 0, 1, 1), 2),
        ),
        ("<function=look><parameter=image>2</parameter><parameter=where>[0, 0, 1, 1]</parameter></function>", Call((0, 0, 1, 1), 2)),
        ("<function=look><parameter=where>left half</parameter></function>", Malformed(Fault.NO_BOX)),
        ("<function=look><parameter=where>" + "[" * 100_000 + "</parameter></function>", Malformed(Fault.NO_BOX)),
        ("<function=look><parameter=where>[0, 0, 1, 1]</function>", Malformed(Fault.NO_BOX)),
        ("<function=look></function>", Malformed(Fault.NO_BOX)),
        ("<function=find><parameter=where>[0, 0, 1, 1]</parameter></function>", Malformed(Fault.UNKNOWN_TOOL)),
        ("<function=look><parameter=where>[0, 0, 1, 1]</parameter>", Malformed(Fault.UNKNOWN_TOOL)),
        ('{"name": "look", "arguments": {"where": [0, 0, 1, 1]}}', Malformed(Fault.UNKNOWN_TOOL)),
        ("", Malformed(Fault.UNKNOWN_TOOL)),
    ],
)
def test_a_call_in_xml_names_a_function_and_its_parameters(tmp_path, body, found):
    assert parse(f"<look>{body}</look>", read_dialect(written(tmp_path / "agent.yaml", XML))) == found


def test_a_call_is_written_as_it_is_read(tmp_path):
    dialect = read_dialect(written(tmp_path / "agent.yaml", XML))
    body = call_body(dialect, "look", '{"where": [0, 0, 0.5, 1], "image": "crop-2.png"}')
    assert body == (
        "\n<function=look>\n<parameter=where>\n[0, 0, 0.5, 1]\n</parameter>\n<parameter=image>\ncrop-2.png\n</parameter>\n</function>\n"
    )
    assert parse(f"<look>{body}</look>", dialect) == Call((0, 0, 0.5, 1), 2)
    for broken in ('{"where": [0, 0', "[0, 0, 1, 1]"):
        assert call_body(dialect, "look", broken) == "\n<function=look>\n</function>\n"


def test_a_plain_number_counts_from_the_number_of_the_view(tmp_path):
    dialect = read_dialect(written(tmp_path / "agent.yaml", AGENT | {"first_image": 1}))
    found = [parse(f'<look>{{"name": "look", "arguments": {{"where": [0, 0, 1, 1]{given}}}}}</look>', dialect) for given in (
        "", ', "image": 1', ', "image": "2"', ', "image": 0', ', "image": "crop-2.png"', ', "image": "photo"',
    )]  # fmt: skip
    assert [call.source for call in found if isinstance(call, Call)] == [0, 0, 1, -1, 2, 0]


def test_a_call_that_is_a_box_alone_is_written_as_it_is_read(tmp_path):
    dialect = read_dialect(written(tmp_path / "agent.yaml", AGENT | {"call_format": "box", "tool": None}))
    assert call_body(dialect, "look", '{"where": [0, 0, 0.5, 1]}') == "[0, 0, 0.5, 1]"
    assert parse("<look>[0, 0, 0.5, 1]</look>", dialect) == Call((0, 0, 0.5, 1))
    assert parse('<look>{"where": [0, 0, 0.5, 1]}</look>', dialect) == Malformed(Fault.NO_BOX)


def test_what_the_template_writes_before_a_turn_is_part_of_the_prompt(tmp_path):
    dialect = read_dialect(written(tmp_path / "agent.yaml", XML))
    assert question_text(dialect, "What is it?").endswith("<|im_start|>assistant\n<think>\n")
    assert observation_text(dialect, CROP_CONTENT, 0, closed=False).endswith("<|im_start|>assistant\n<think>\n")


@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.yml", "prompts.json"])
def test_a_file_of_prompts_replaces_all_texts_and_keeps_the_form_of_a_call(tmp_path, name):
    path = written(tmp_path / name, TEXTS)
    before, dialect = read_dialect("mini_o3"), read_dialect("mini_o3", path)
    assert {key: getattr(dialect, key) for key in Texts.model_fields} == TEXTS
    form = set(Dialect.model_fields) - set(Texts.model_fields) - {"prompts"}
    assert all(getattr(dialect, key) == getattr(before, key) for key in form)
    assert dialect.words == path and dialect.notes == (f"asked with the prompts of {path} (hash {dialect.digest})",)


def test_a_surrogate_pair_of_a_json_file_is_one_character(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(TEXTS | {"before": "\U0001f50d "}))
    assert "\\ud83d" in path.read_text()
    assert read_dialect("deepeyes", str(path)).before == "\U0001f50d "


# --------------------------------------------------------------------------------------------------------- identity


def test_texts_that_weights_were_trained_on_are_identified_by_their_name():
    assert [read_dialect(name).identity for name in FIXED] == list(FIXED)


def test_other_texts_are_identified_by_their_content_wherever_the_file_lies(tmp_path):
    first = read_dialect("deepeyes", written(tmp_path / "a.yaml", TEXTS))
    moved = read_dialect("deepeyes", written(tmp_path / "b.json", TEXTS))
    other = read_dialect("deepeyes", written(tmp_path / "c.yaml", TEXTS | {"before": ""}))
    same_texts_other_form = read_dialect("mini_o3", written(tmp_path / "a.yaml", TEXTS))
    assert first.identity == moved.identity == first.digest
    assert len({first.identity, other.identity, same_texts_other_form.identity, read_dialect("deepeyes").identity}) == 4
    assert read_dialect("tiny", written(tmp_path / "a.yaml", TEXTS)).identity != "tiny"


# ---------------------------------------------------------------------------------------------------------- refusals


def test_an_unknown_dialect_is_answered_with_the_names_and_the_way_to_a_file_of_ones_own():
    with pytest.raises(DialectError) as refused:
        read_dialect("klingon")
    assert str(refused.value) == (
        f"policy.dialect is 'klingon'; choose one of {', '.join(dialect_names())}, or give the path of a YAML file of your own "
        "(docs/dialects.md)"
    )


def without(*keys: str) -> dict[str, object]:
    return {key: value for key, value in TEXTS.items() if key not in keys}


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (without("system", "after"), ["system is missing", "after is missing"]),
        (TEXTS | {"sytem": "", "frame": "fraction"}, ["sytem is no key", "frame is no key"]),
        (TEXTS | {"crop_reply": "here", "error_reply": "{content}{content}"}, ["crop_reply holds {content} 0 times", "2 times"]),
        (TEXTS | {"before": 3, "system": None}, ["before is 3: input should be a valid string", "system is None"]),
        (TEXTS | {"after": "a<|im_end|>b"}, ["after holds <|im_end|>, which only the chat layout writes"]),
        ([1, 2], ["it holds no keys (list)"]),
        (None, ["it holds no keys (NoneType)"]),
    ],
)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_of_prompts_is_refused_in_one_message_with_everything_that_is_wrong_and_allowed(tmp_path, content, problems, ending):
    path = written(tmp_path / f"prompts.{ending}", content)
    with pytest.raises(DialectError) as refused:
        read_dialect("deepeyes", path)
    said = str(refused.value)
    assert said.startswith(f"policy.prompts is {path}: ")
    assert all(problem in said for problem in problems)
    assert f"It needs {', '.join(TEXTS)}; it has nothing else (docs/dialects.md)" in said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"frame": "pixels"}, "frame is 'pixels': input should be 'view_pixels', 'per_mille' or 'fraction'"),
        ({"token_px": 0}, "token_px is 0: input should be greater than or equal to 1"),
        ({"token_px": True}, "token_px is True: input should be a valid integer"),
        ({"call": ["<a>"]}, "call.1 is missing"),
        ({"call": ["<a>", "<a>"]}, "call is <a> twice; the tags that open and close a call differ"),
        ({"call": ["", "</a>"]}, "call.0 is '': string should have at least 1 character"),
        ({"crop_name": "crop"}, "crop_name holds no {number}, or more than one"),
        ({"call_format": "yaml"}, "call_format is 'yaml': input should be 'json', 'xml' or 'box'"),
        ({"course": "three_roles"}, "course is 'three_roles': input should be 'free', 'two_turns' or 'two_roles'"),
        ({"course": "two_roles", "system_without_tool": None}, "course is two_roles, but system_without_tool is null"),
        ({"max_crops": 0}, "max_crops is 0: input should be greater than or equal to 1"),
        ({"padding": 1.0}, "padding is 1.0: input should be less than 1"),
        ({"call_format": "xml", "tool": None}, "call_format is xml, but tool is null; a call in XML names its tool"),
        ({"name": "mine"}, "name is no key"),
        ({"prompts": "texts.yaml"}, "prompts is no key"),
    ],
)
def test_a_dialect_of_ones_own_is_refused_with_the_keys_that_a_dialect_has(tmp_path, change, problem):
    path = written(tmp_path / "agent.yaml", AGENT | change)
    with pytest.raises(DialectError) as refused:
        read_dialect(path)
    said = str(refused.value)
    assert said.startswith(f"policy.dialect is {path}: ") and problem in said
    assert f"It needs {', '.join(TEXTS)}, frame, token_px; it may have call, tool, box_argument" in said


@pytest.mark.parametrize("ending", ["yaml", "json"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b"[" * 100_000, b"a: b: c", b"\x00"])
def test_a_file_that_can_not_be_read_is_one_message(tmp_path, content, ending):
    path = tmp_path / f"prompts.{ending}"
    path.write_bytes(content)
    with pytest.raises(DialectError, match=r"policy\.prompts is .*: it can't be read \(.*It needs system"):
        read_dialect("deepeyes", str(path))


def test_a_file_that_is_not_there_and_a_folder_are_one_message(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(DialectError, match=r"it can't be read \(.*(No such file|Is a directory)"):
            read_dialect("deepeyes", str(path))
    with pytest.raises(DialectError, match=r"policy\.dialect is .*none\.yaml: it can't be read"):
        read_dialect(str(tmp_path / "none.yaml"))


def test_weights_that_run_here_are_refused_a_call_that_they_could_not_stop_after(tmp_path):
    path = written(tmp_path / "agent.yaml", AGENT | {"frame": "per_mille"})
    with pytest.raises(ValueError, match=r"closes a call with </look>, which is not one token of .*use rollout=openai"):
        load_model(EMBEDDED, path)


# ------------------------------------------------------------------------------------------------------------- light


def test_dialects_are_listed_and_read_without_torch_and_transformers():
    program = (
        "import sys; from focus.model.dialect import dialect_names, read_dialect; "
        "[read_dialect(name) for name in dialect_names()]; "
        "print(sorted({'torch', 'transformers', 'pytorch_lightning', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=DIALECTS.parents[1])
    assert done.stdout.strip() == "[]"


def test_keys_that_came_later_leave_the_hash_of_a_dialect_without_them_as_it_was():
    dialect = read_dialect("deepeyes")
    earlier = dialect.model_dump(mode="json", exclude={"name", "prompts", "paraphrase_of", *NEWER})
    assert dialect.digest == hashlib.blake2b(json.dumps(earlier, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert dialect.digest == "01aa4225c9744a0a"  # as measurements before these keys recorded it
    for change in ({"call_format": "xml"}, {"opening": "<think>\n"}, {"padding": 0.1}, {"course": "two_turns"}, {"declined_tools": ("x",)}):
        assert dialect.model_copy(update=change).digest != dialect.digest
