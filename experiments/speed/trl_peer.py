"""One GRPO step of TRL's GRPOTrainer per line on standard input. Runs in TRL's own environment; grpo_step.py starts it.

The random policy writes no calls, so the parse of its turns is replaced: the first is one fixed call, the second an answer. The sampled ids
stay as they are. Where TRL could be put in more than one way, the faster one is taken: views are ready-made and in memory, replies are not
parsed, and the data loader runs outside the clock.
"""

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

TOOL = "image_zoom_in_tool"


@dataclass(frozen=True)
class Job:
    """What both sides do. Paths are PNG files, one for each question."""

    checkpoint: str  # folder in the Hugging Face layout, float32
    views: list[str]
    originals: list[str]
    questions: list[str]
    group: int  # rollouts per question
    box: list[int]  # of every crop, per mille of the original
    turn_tokens: int  # sampled in each of the two turns, no more and no less
    suppressed: list[str]  # tokens that are never sampled: vision tokens and stops
    learning_rate: float
    weight_decay: float
    grad_clip: float
    clip: float
    temperature: float
    threads: int
    steps: int
    splits: list[int]  # rollouts per forward and backward to try; the fastest is kept

    @property
    def rollouts(self) -> int:
        return len(self.questions) * self.group


def settings(job: Job, split: int) -> dict[str, tuple[Any, str]]:
    """Every setting of GRPOConfig that is not TRL's default, or whose default matters here, with its reason."""
    return {
        "use_cpu": (True, "the device of this table"),
        "bf16": (False, "both sides compute in float32"),
        "num_generations": (job.group, "the group, the same as ours"),
        "per_device_train_batch_size": (split, f"the fastest of {job.splits} in a trial step of this cell"),
        "gradient_accumulation_steps": (job.rollouts // split, "one optimiser step per generation batch, as ours"),
        "steps_per_generation": (job.rollouts // split, "all rollouts of a step are generated in one batch, TRL's best"),
        "num_iterations": (1, "one update per rollout, as ours; TRL then needs no second pass for old log-probabilities"),
        "beta": (0.0, "no KL term and no reference model, as ours"),
        "loss_type": ("dapo", "mean over all sampled tokens of the update, as ours (TRL's default)"),
        "scale_rewards": ("group", "advantage of a group over its standard deviation, as ours (TRL's default)"),
        "epsilon": (job.clip, "the same as ours"),
        "temperature": (job.temperature, "the same as ours"),
        "top_p": (1.0, "no truncation of the distribution, as ours (TRL's default)"),
        "top_k": (0, "no truncation of the distribution, as ours (TRL's default)"),
        "max_tool_calling_iterations": (1, "one crop per rollout"),
        "max_completion_length": (1024, "above two turns and the tool's answer together, so that nothing is cut"),
        "generation_kwargs": (
            {"max_new_tokens": job.turn_tokens, "use_cache": True},
            "exactly this many tokens a turn, with a key-value cache; suppress_tokens holds vision tokens and stops, as on our side",
        ),
        "learning_rate": (job.learning_rate, "AdamW, the same as ours"),
        "weight_decay": (job.weight_decay, "the same as ours"),
        "max_grad_norm": (job.grad_clip, "the same as ours"),
        "lr_scheduler_type": ("constant", "no schedule to compute"),
        "optim": ("adamw_torch_fused", "the fastest AdamW of torch (TRL's default)"),
        "gradient_checkpointing": (False, "on by default; recomputing the forward would only cost TRL time"),
        "disable_dropout": (True, "no dropout, as ours"),
        "torch_compile": (False, "as ours (TRL's default)"),
        "shuffle_dataset": (False, "the same questions in every step, as ours"),
        "dataloader_num_workers": (0, "rows are references to images in memory; loading them is outside the clock"),
        "logging_strategy": ("no", "nothing is logged"),
        "log_completions": (False, "nothing is logged"),
        "log_multimodal": (False, "on by default; keeps images of every rollout for a log that is off"),
        "report_to": ("none", "nothing is logged"),
        "save_strategy": ("no", "nothing is saved"),
        "eval_strategy": ("no", "nothing is evaluated"),
        "disable_tqdm": (True, "nothing is drawn"),
        "max_steps": (job.steps, "the warm-up and the repeats"),
        "seed": (0, "fixed"),
    }


def rewards(step: int, rollouts: int) -> list[float]:
    """A reward for every rollout of a step, the same on both sides: no group is of one value, so no advantage is zero."""
    draw = random.Random(step)
    return [draw.random() for _ in range(rollouts)]


def digest(prompts: Sequence[Sequence[int]]) -> str:
    """Names the ids of the prompts: equal names, equal prompts."""
    return hashlib.blake2b(json.dumps([list(p) for p in prompts]).encode(), digest_size=8).hexdigest()


class Passed:
    """Counts what goes through the network: merged visual tokens of the vision tower, positions of the text model (padding included)."""

    def __init__(self, model: Any) -> None:
        self.visual = self.text = 0
        merge = model.config.vision_config.spatial_merge_size
        core = model.model

        def seen(module: Any, args: tuple, kwargs: dict) -> None:
            grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.visual += int(grids.prod(dim=1).sum()) // merge**2

        def read(module: Any, args: tuple, kwargs: dict) -> None:
            given = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
            self.text += given.shape[0] * given.shape[1]

        core.visual.register_forward_pre_hook(seen, with_kwargs=True)
        core.language_model.register_forward_pre_hook(read, with_kwargs=True)

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        taken = {"visual_tokens_encoded": self.visual, "text_positions_forwarded": self.text}
        self.visual = self.text = 0
        return taken


def processor(folder: str) -> Any:
    """Qwen3-VL's processor without its video half (which needs torchvision), with the chat template that TRL ships."""
    import trl
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class ImageOnly(Qwen3VLProcessor):
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", chat_template=template)
    return ImageOnly(AutoImageProcessor.from_pretrained(folder, backend="pil"), tokenizer, chat_template=template)


def zoom_tool(crop: Callable[[list[int]], list]) -> Callable[[list[int]], list]:
    """The tool whose name, argument and docstring TRL shows to the model; `crop` does the work."""

    def image_zoom_in_tool(bbox_2d: list[int]) -> list:
        """
        Zoom in on a region of the image.

        Args:
            bbox_2d: [x1, y1, x2, y2] of the region, 0 to 1000 from the left and the top of the image.
        """
        return crop(bbox_2d)

    return image_zoom_in_tool


class Speaker:
    """What the turns are taken to say, and the tool that answers. TRL executes calls in the order of its rollouts."""

    def __init__(self, job: Job) -> None:
        self.job, self.calls = job, 0
        self.originals = [Image.open(path).convert("RGB") for path in job.originals]

    def parse(self, tokenizer: Any, ids: list[int], prefix: list[int], tools: Any) -> dict[str, Any]:
        """In place of TRL's parse_response."""
        if tokenizer.convert_tokens_to_ids("<tool_response>") in prefix:
            return {"role": "assistant", "content": "done"}
        call = {"type": "function", "function": {"name": TOOL, "arguments": {"bbox_2d": self.job.box}}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    def crop(self, bbox_2d: list[int]) -> list:
        """The crop that the tool returns."""
        original = self.originals[self.calls // self.job.group % len(self.originals)]
        self.calls += 1
        w, h = original.size
        x1, y1, x2, y2 = bbox_2d
        return [{"type": "image", "image": original.crop((x1 * w // 1000, y1 * h // 1000, x2 * w // 1000, y2 * h // 1000))}]


def run(job: Job, split: int, steps: int, gate: Callable[[], None], report: Callable[[dict[str, Any]], None]) -> None:
    """Train `steps` steps. `gate` is called before each (outside the clock), `report` after each."""
    import datasets
    from transformers import AutoModelForImageTextToText, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    speaker, tokens = Speaker(job), processor(job.checkpoint)
    grpo_trainer.parse_response = speaker.parse
    views = [Image.open(path).convert("RGB") for path in job.views]
    counts: dict[str, Any] = {}

    class Counted(GRPOTrainer):
        """Writes down what a step consisted of."""

        def _generate(self, prompts: list) -> tuple:
            out = super()._generate(prompts)
            prompt_ids, completion_ids, tool_mask, _, _, _, images, tool_images = out
            pad, merge = self._image_pad_token_id, tokens.image_processor.merge_size
            side = tokens.image_processor.patch_size * merge
            turns = [[len(list(run)) for sampled, run in groupby(mask) if sampled] for mask in tool_mask]
            counts.update(
                prompts=digest(prompt_ids[:: job.group]),
                prompt_tokens=sum(len(ids) for ids in prompt_ids[:: job.group]),
                view_tokens=sum(ids.count(pad) for ids in prompt_ids[:: job.group]),
                first_turn_tokens=sum(turn[0] for turn in turns),
                second_turn_tokens=sum(turn[1] for turn in turns if len(turn) == 2),
                trained_tokens=sum(sum(mask) for mask in tool_mask),
                crop_tokens=sum(i.width * i.height // side**2 for crops in tool_images for i in crops),
                images=len(images) // job.group + sum(len(crops) for crops in tool_images),
                sequence_tokens=sum(len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True)),
            )
            return out

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gate()
            passed.take()
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            taken = time.perf_counter() - self.began
            report({"seconds": taken, "counts": counts | {"optimiser_steps": 1}, "passed": passed.take()})

    values = {name: value for name, (value, _) in settings(job, split).items()} | {"max_steps": steps}
    suppressed = [tokens.tokenizer.convert_tokens_to_ids(token) for token in job.suppressed]
    values["generation_kwargs"] |= {"suppress_tokens": suppressed}
    asked = [[{"role": "user", "content": question}] for question in job.questions]
    data = datasets.Dataset.from_dict({"row": list(range(len(asked))) * steps})
    data = data.with_transform(lambda batch: {"prompt": [asked[i] for i in batch["row"]], "images": [[views[i]] for i in batch["row"]]})
    model = AutoModelForImageTextToText.from_pretrained(job.checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    passed = Passed(model)
    trainer = Counted(
        model=model,
        reward_funcs=lambda completions, trainer_state, **_: rewards(trainer_state.global_step, len(completions)),
        args=GRPOConfig(output_dir=str(Path(job.checkpoint).parent / "trl"), **values),
        train_dataset=data,
        processing_class=tokens,
        callbacks=[Clock()],
        tools=[zoom_tool(speaker.crop)],
    )
    trainer.train()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print; the protocol is ours alone
    torch.set_num_threads(job.threads)

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=answers, flush=True)

    def wait() -> None:
        if not sys.stdin.readline():
            sys.exit(0)

    trials: dict[int, float] = {}
    for split in [*job.splits[:1], *job.splits] if len(job.splits) > 1 else ():  # the first one warms up and is tried again
        run(job, split, 1, lambda: None, lambda line, split=split: trials.update({split: line["seconds"]}))
    split = min(trials, key=lambda s: trials[s]) if trials else job.splits[0]
    import transformers
    import trl

    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    say({"versions": versions, "threads": torch.get_num_threads(), "trials_s": trials, "settings": settings(job, split)})
    run(job, split, job.steps, wait, say)


if __name__ == "__main__":
    main()
