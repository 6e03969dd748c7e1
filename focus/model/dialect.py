"""How an agent is addressed: the form of its calls, and the texts around a question and a crop.

A dialect is a file, `conf/dialect/NAME.yaml` or a YAML file of yours; docs/dialects.md explains the
keys. Nothing here needs torch or transformers, so settings are checked before those are imported.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from focus.data.boxes import Frame
from focus.runtime.paths import CONF

DIALECTS = CONF / "dialect"
# Weights were trained on exactly these texts. Measurements with them are identified by the name alone
FIXED = ("tiny", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
CONTROL_TOKEN = re.compile(r"<\|\w+\|>")  # written by the chat layout alone
# Agents whose tool runs Python code that the model writes
SANDBOXED = {"thyme": "Thyme", "deepeyes_v2": "DeepEyesV2", "pyvision": "PyVision"}
# Keys that came after the first measurements: at their defaults they are not in the hash of a dialect
NEWER = ("call_format", "opening", "answer_format", "first_image", "padding", "declined_tools", "max_crops", "course")

Word = Annotated[str, Field(min_length=1)]


class DialectError(ValueError):
    """A dialect or a file of prompts that can't be used. The message says what is allowed."""


class Texts(BaseModel):
    """The texts of an agent: the keys of a file that `policy.prompts` names.

    `before` and `after` stand around the question. `crop_reply` and `error_reply` are the user's
    turn after a call: `{content}` is the crop, or the reason why there is none; `{number}` counts
    crops from 1, `{index}` from 0; `{question}` is the question with its options. The arm no_tool
    uses the texts `..._without_tool`. Without `system_without_tool` that arm can't be played.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    system_without_tool: str | None
    before: str
    after: str
    after_without_tool: str
    crop_reply: str
    error_reply: str

    @field_validator("*")
    @classmethod
    def _holds_no_control_token(cls, value: Any) -> Any:
        if isinstance(value, str) and (found := CONTROL_TOKEN.search(value)):
            raise ValueError(f"holds {found[0]}, which only the chat layout writes")
        return value

    @field_validator("crop_reply", "error_reply")
    @classmethod
    def _has_one_place_for_the_content(cls, value: str) -> str:
        if value.count("{content}") != 1:
            raise ValueError(f"holds {{content}} {value.count('{content}')} times; it stands in it exactly once")
        return value


class DialectFile(Texts):
    """The keys of `conf/dialect/NAME.yaml`: the texts, and the form of a call.

    frame: what the numbers of a box mean.
    token_px: side of one merged visual token, in pixels.
    call: the tags around a call.
    tool: the name of the tool, or None where a call holds its arguments alone.
    box_argument: the argument that holds the box.
    image_arguments: the arguments that may select an image. The first one that a call has counts.
    original_name, crop_name: how that argument names the view and the n-th crop. A plain number is
        understood too: 0 is the view, n the n-th crop.
    call_format: what stands between the tags of a call: json, xml (`<function=...>` with a
        `<parameter=...>` for every argument), or box (the list of four numbers alone).
    opening: what the chat template writes at the beginning of every turn of the model.
    answer_format: how a final answer is marked: tags (`<answer>...</answer>`) or boxed (`\\boxed{...}`).
    first_image: the plain number that names the view; crops follow it.
    padding: what is added to a box on every side, as a share of the cut image's width and height (at
        most `MOST_PADDING_PX` pixels of the original).
    declined_tools: tools that the prompt offers and focus does not have. A call of one is answered.
    max_crops: the most crops that the agent was made for; None: as many as rollout.max_crops allows.
    course: how a conversation goes on after a turn (`rollout/courses.py`).
    paraphrase_of: the agent whose own texts these are not.
    """

    frame: Frame
    token_px: Annotated[int, Field(ge=1, strict=True)]
    call: tuple[Word, Word] = ("<tool_call>", "</tool_call>")
    tool: Word | None = "image_zoom_in_tool"
    box_argument: Word = "bbox_2d"
    image_arguments: tuple[Word, ...] = ("source", "img_idx")
    original_name: Word = "original_image"
    crop_name: Word = "observation_{number}"
    call_format: Literal["json", "xml", "box"] = "json"
    opening: str = ""
    answer_format: Literal["tags", "boxed"] = "tags"
    first_image: Annotated[int, Field(ge=0, strict=True)] = 0
    padding: Annotated[float, Field(ge=0, lt=1)] = 0.0
    declined_tools: tuple[Word, ...] = ()
    max_crops: Annotated[int, Field(ge=1, strict=True)] | None = None
    course: Literal["free", "two_turns", "two_roles"] = "free"
    paraphrase_of: Word | None = None

    @field_validator("call")
    @classmethod
    def _has_two_tags(cls, value: tuple[str, str]) -> tuple[str, str]:
        if value[0] == value[1]:
            raise ValueError(f"is {value[0]} twice; the tags that open and close a call differ")
        return value

    @field_validator("call_format")
    @classmethod
    def _names_a_tool_in_xml(cls, value: str, info: ValidationInfo) -> str:
        if value == "xml" and info.data.get("tool", "") is None:
            raise ValueError("is xml, but tool is null; a call in XML names its tool")
        return value

    @field_validator("course")
    @classmethod
    def _has_a_prompt_for_the_second_role(cls, value: str, info: ValidationInfo) -> str:
        if value == "two_roles" and info.data.get("system_without_tool", "") is None:
            raise ValueError("is two_roles, but system_without_tool is null; the second role is asked with it")
        return value

    @field_validator("crop_name")
    @classmethod
    def _has_a_number(cls, value: str) -> str:
        if value.count("{number}") != 1:
            raise ValueError("holds no {number}, or more than one; it stands for the number of the crop, from 1")
        return value


class Dialect(DialectFile):
    """A dialect as it is used. `name` and `prompts` are the settings policy.dialect and policy.prompts."""

    name: str
    prompts: str | None = None

    def without_tool(self) -> "Dialect":
        """The same dialect where no tool is offered."""
        assert self.system_without_tool is not None, self.name  # the settings allow no other dialect in the arm no_tool
        return self.model_copy(update={"system": self.system_without_tool, "after": self.after_without_tool})

    @property
    def answer(self) -> tuple[str, str]:
        """What opens and closes a final answer."""
        return ("\\boxed{", "}") if self.answer_format == "boxed" else ("<answer>", "</answer>")

    @property
    def digest(self) -> str:
        """A hash of the call form and all texts, whatever the names of the files."""
        kept = self.model_dump(mode="json", exclude={"name", "prompts", "paraphrase_of"})
        plain = DialectFile.model_construct().model_dump(mode="json", include=set(NEWER))
        kept = {key: value for key, value in kept.items() if key not in NEWER or value != plain[key]}
        return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def identity(self) -> str:
        """What names this dialect in the identity of a measurement."""
        return self.name if self.name in FIXED and self.prompts is None else self.digest

    @property
    def words(self) -> str:
        """Whose words the texts are: the file of prompts, `own words` for a paraphrase, else `dialect`."""
        return self.prompts or ("own words" if self.paraphrase_of else "dialect")

    @property
    def record(self) -> dict[str, Any]:
        """What a results file says about the texts."""
        return {"hash": self.digest, "words": self.words, "notes": list(self.notes)}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of a result. None where the file of the dialect has the agent's own texts."""
        if self.prompts:
            return (f"asked with the prompts of {self.prompts} (hash {self.digest})",)
        if self.paraphrase_of:
            return (
                f"asked in own words (hash {self.digest}), not with the prompts of {self.paraphrase_of}; policy.prompts=FILE takes "
                "those, see docs/dialects.md",
            )
        return ()


def dialect_names() -> list[str]:
    """The dialects that ship, which are the files of conf/dialect."""
    return sorted(path.stem for path in DIALECTS.glob("*.yaml"))


def read_dialect(dialect: str, prompts: str | None = None) -> Dialect:
    """The dialect of the settings policy.dialect (a name, or the path of a YAML file) and policy.prompts.

    Raises DialectError, which lists everything that is wrong with a file.
    """
    if agent := SANDBOXED.get(dialect):
        raise DialectError(
            f"policy.dialect is {dialect!r}, but the tool of {agent} is a Python sandbox: it runs code that the model writes, and focus "
            f"runs none. It plays agents whose calls name boxes: {', '.join(dialect_names())}"
        )
    own_file = Path(dialect).suffix in (".yaml", ".yml")
    if not own_file and dialect not in dialect_names():
        near = difflib.get_close_matches(dialect, dialect_names(), n=1)
        raise DialectError(
            f"policy.dialect is {dialect!r}; choose one of {', '.join(dialect_names())}, or give the path of a YAML file of your own "
            "(docs/dialects.md)" + (f". Did you mean {near[0]}?" if near else "")
        )
    found = _read("policy.dialect", Path(dialect).expanduser() if own_file else DIALECTS / f"{dialect}.yaml", DialectFile)
    if prompts is not None:
        found |= _read("policy.prompts", Path(prompts).expanduser(), Texts)
    return Dialect(name=dialect, prompts=prompts, **found)


def _read(setting: str, path: Path, keys: type[Texts]) -> dict[str, Any]:
    """The content of a YAML or JSON file, checked. Raises DialectError."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(content, dict):
            return keys.model_validate(content).model_dump()
        problems = [f"it holds no keys ({type(content).__name__})"]
    except ValidationError as error:
        problems = [_problem(each) for each in error.errors()]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems = [f"it can't be read ({' '.join(str(error).split())})"]
    required = [key for key, field in keys.model_fields.items() if field.is_required()]
    optional = [key for key in keys.model_fields if key not in required]
    allowed = f"It needs {', '.join(required)}" + (f"; it may have {', '.join(optional)}" if optional else "; it has nothing else")
    raise DialectError(f"{setting} is {path}: {'; '.join(problems)}. {allowed} (docs/dialects.md)")


def _problem(error: Mapping[str, Any]) -> str:
    """One error of pydantic in our words."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        return f"{key} is no key"
    if error["type"] == "value_error":
        return f"{key} {error['ctx']['error']}"
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
