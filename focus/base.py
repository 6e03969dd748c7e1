"""The supervised base: a tiny Qwen3-VL that stands in for Qwen-VL's pre-training. `make base` rebuilds it from nothing.

It learns to read crops, to point roughly and to answer in both formats (directly; crop, then answer) in equal shares over
the whole ladder of views. RL starts from it, so what it must not contain is a preference: the noise of its boxes is symmetric
about the sign (B2) in centre and in log-size, never inflated, and half of its answers never saw a crop.

Two things are thrown away after training: a linear head that names the sign under each visual token, and a pull of two
attention heads towards the tokens where the evidence lies. Without them choosing the asked sign takes hours.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus import config
from focus.boxes import Box, Size, area, intersection, settle, to_view
from focus.checkpoint import Checkpoint, Pixels, positions
from focus.data.original import Original
from focus.data.scenes import COLOURS, DIFFICULTY, Scene, SceneSpec, Sign, _descriptions
from focus.gap import View, cut, look
from focus.prompts import (
    CROP_CONTENT,
    DIALECTS,
    VISION_TOKENS,
    Fault,
    answer_text,
    call_text,
    encode,
    error_content,
    observation_text,
    question_text,
)

CENTRE_NOISE = 0.30  # standard deviation of the box centre, as a share of the sign's side
SIZE_NOISE = 0.35  # standard deviation of the box's log-size, per axis
ANSWER_WEIGHT = 5.0  # of an answer's digits: they are two against the twelve of a call, and reading would be drowned
LEVELS = (16, 32, 64, 128, 256)
GUIDED_LAYER, GUIDED_HEADS = 2, 2
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *VISION_TOKENS,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)


def build_tokenizer(vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the transcripts of all difficulties; digits stand alone, so numbers are read one by one."""
    dialect = DIALECTS["tiny"]
    corpus = []
    for level, spec in DIFFICULTY.items():
        for index in range(400):
            scene = Scene(spec, "train", 10_000_000 + level * 1000 + index)
            text, target = scene.question
            call = call_text(to_view(scene.signs[target].sign_px, dialect.frame, (1, 1), (spec.side_px, spec.side_px)))
            corpus += [
                question_text(dialect, text),
                call,
                observation_text(dialect, CROP_CONTENT, 0, closed=False),
                answer_text(scene.signs[target].text),
            ]
    corpus += [observation_text(dialect, error_content(fault), 0, closed=False) for fault in Fault] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, clean_up_tokenization_spaces=False
    )


def build(tokenizer: PreTrainedTokenizerFast, seed: int = 0, width: int = 128, layers: int = 4, vision_layers: int = 3) -> Checkpoint:
    """The untrained base: Qwen3-VL's architecture, about 2 M parameters, tokens of 28 x 28 px."""
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "head_dim": 32,
            "initializer_range": 0.06,
            "max_position_embeddings": 32768,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_heads": width // 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.06,
        },
    )
    model = Qwen3VLForConditionalGeneration(config)
    processor = Qwen2VLImageProcessorPil(
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28},
    )
    return Checkpoint(model, tokenizer, processor, DIALECTS["tiny"])


class Transcript(NamedTuple):
    """One row of a batch."""

    ids: list[int]
    weights: list[float]  # of the next-token loss, one for each id; 0 where nothing is learned
    grids: list[tuple[int, int, int]]  # of its images, in patches
    looks: list[tuple[int, int, np.ndarray]]  # query position, first token of the image, which of its tokens lie under the evidence


@dataclass
class Batch:
    """Equal-format transcripts, right-padded."""

    ids: Tensor  # [row, token]
    positions: Tensor  # [3, row, token]
    mask: Tensor  # [row, token], True on real tokens
    labels: Tensor  # [row, token], -100 where nothing is learned
    weights: Tensor  # [row, token], of the next-token loss
    pixels: Pixels
    evidence: Tensor  # [row, token (query), token (key)] bool: where guided heads should look; all False = no pull
    named: Tensor  # [visual token, 3]: 0 = no sign or 1 + colour; first and second digit of the text under it, -100 = none legible
    kind: str


def _noisy(box_px: Box, random: np.random.Generator) -> Box:
    """A box about `box_px`, its centre and log-size disturbed symmetrically."""
    x1, y1, x2, y2 = box_px
    width, height = x2 - x1, y2 - y1
    cx = (x1 + x2) / 2 + random.normal(0, CENTRE_NOISE) * width
    cy = (y1 + y2) / 2 + random.normal(0, CENTRE_NOISE) * height
    width, height = width * np.exp(random.normal(0, SIZE_NOISE)), height * np.exp(random.normal(0, SIZE_NOISE))
    return (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def _about(box_px: Box, grow: np.ndarray, size: Size, least: int) -> Box:
    """What a crop shows that reaches `grow` beyond a box of the image, on each side."""
    x1, y1, x2, y2 = box_px
    grown = settle((x1 - grow[0], y1 - grow[1], x2 + grow[2], y2 + grow[3]), size, least)
    assert grown is not None  # it touches the image, as the box lies in it
    return grown


def _tokens_under(box: Box, size: tuple[int, int], region_px: Box, token_px: int) -> np.ndarray:
    """Which merged tokens of an image (of `size`, showing `region_px` of the original) lie under a box of the original."""
    columns, rows = size[0] // token_px, size[1] // token_px
    x1, y1, x2, y2 = region_px
    sx, sy = (x2 - x1) / columns, (y2 - y1) / rows
    under = np.zeros((rows, columns), dtype=bool)
    shared = intersection(box, region_px)
    if area(shared) > 0:
        c1, c2 = int((shared[0] - x1) / sx), int(np.ceil((shared[2] - x1) / sx))
        r1, r2 = int((shared[1] - y1) / sy), int(np.ceil((shared[3] - y1) / sy))
        under[r1 : max(r2, r1 + 1), c1 : max(c2, c1 + 1)] = True
    return under.reshape(-1)


def _names(signs: tuple[Sign, ...], size: tuple[int, int], region_px: Box, token_px: int) -> np.ndarray:
    named = np.full(((size[0] // token_px) * (size[1] // token_px), 3), -100, dtype=np.int64)
    named[:, 0] = 0
    legible = size[0] / (region_px[2] - region_px[0]) > 0.65
    for sign in signs:
        named[_tokens_under(sign.sign_px, size, region_px, token_px), 0] = 1 + list(COLOURS).index(sign.colour)
        inside = area(intersection(sign.text_px, region_px)) > 0.95 * area(sign.text_px)
        if legible and inside and sign.text.isdigit():
            named[_tokens_under(sign.text_px, size, region_px, token_px), 1:] = [int(sign.text[0]), int(sign.text[1])]
    return named


NAMES = 1 + len(COLOURS) + 10 + 10


def _naming_loss(scores: Tensor, named: Tensor) -> Tensor:
    """Cross-entropy of sign colour and of both digits, for each visual token that has them."""
    colours = 1 + len(COLOURS)
    parts = scores.split([colours, 10, 10], dim=-1)
    each = [
        functional.cross_entropy(part, named[:, i], ignore_index=-100, reduction="sum") / (named[:, i] >= 0).sum().clamp_min(1)
        for i, part in enumerate(parts)
    ]
    return torch.stack(each).sum()


@dataclass
class Phase:
    """One stretch of the curriculum. Shares of levels and formats; `tight` is how far crops shrink towards the text."""

    samples: int
    direct: float = 0.0
    levels: tuple[float, ...] = ()
    tight: tuple[float, float] = (0.0, 0.0)
    glance: float = 0.0  # share of batches without words: name what stands under each token of a crop
    air: float = 24.0  # most pixels that a glance shows beyond the text, on each side


class Transcripts(IterableDataset):
    """Endless batches of transcripts; batch i is a pure function of (phases, i), so training resumes anywhere."""

    def __init__(self, checkpoint: Checkpoint, specs: tuple[SceneSpec, ...], phases: tuple[Phase, ...], rows: int, start: int = 0) -> None:
        self.checkpoint, self.specs, self.phases, self.rows, self.start = checkpoint, specs, phases, rows, start

    def phase(self, index: int) -> tuple[Phase, float]:
        done = index * self.rows
        for phase in self.phases:
            if done < phase.samples:
                return phase, done / phase.samples
            done -= phase.samples
        return self.phases[-1], 1.0

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        step, offset = (worker.num_workers, worker.id) if worker else (1, 0)
        index = self.start + offset
        while True:
            yield self.batch(index)
            index += step

    def batch(self, index: int) -> Batch:
        random = np.random.default_rng([7, index])
        phase, progress = self.phase(index)
        if phase.glance == 1 or (phase.glance and random.random() < phase.glance):
            return self._glances(index, random, phase.air)
        spec = self.specs[int(random.integers(len(self.specs)))]
        direct = random.random() < phase.direct
        level = LEVELS[int(random.choice(len(LEVELS), p=phase.levels))]
        tight = phase.tight[0] + (phase.tight[1] - phase.tight[0]) * progress
        rows: list[Transcript] = []
        images: list[Image.Image] = []
        named: list[np.ndarray] = []
        scene_index = index * self.rows
        while len(rows) < self.rows:
            scene = Scene(spec, "train", scene_index)
            scene_index += 1
            original = scene.open()
            view = look(original, level, self.checkpoint.token_px)
            asked = [d for kind in spec.asks for d in _descriptions(kind, scene.signs)]
            for pick in random.permutation(len(asked))[:2]:
                text, target = asked[pick]
                if len(rows) < self.rows:
                    rows.append(self._row(scene, original, view, text, scene.signs[target], direct, tight, random, images, named))
        return _collate(
            rows, self.checkpoint.pack(images), np.concatenate(named), self.checkpoint, f"{'direct' if direct else 'crop'}@{level}"
        )

    def _glances(self, index: int, random: np.random.Generator, air: float) -> Batch:
        images: list[Image.Image] = []
        named: list[np.ndarray] = []
        spec = SceneSpec(side_px=112, signs=1, sign_side=(0.6, 0.72))
        for k in range(4 * self.rows):
            scene = Scene(spec, "train", 20_000_000 + index * 4 * self.rows + k)
            box_px = _about(scene.signs[0].text_px, random.uniform(0, air, 4), (112, 112), self.checkpoint.token_px)
            crop = cut(scene.open(), box_px, (112, 112), 64, self.checkpoint.token_px)
            images.append(crop.image)
            named.append(_names(scene.signs, crop.size, box_px, self.checkpoint.token_px))
        none = torch.zeros(0)
        return Batch(none, none, none, none, none, self.checkpoint.pack(images), none, torch.from_numpy(np.concatenate(named)), "glance")

    def _row(
        self,
        scene: Scene,
        original: Original,
        view: View,
        description: str,
        sign: Sign,
        direct: bool,
        tight: float,
        random: np.random.Generator,
        images: list[Image.Image],
        named: list[np.ndarray],
    ) -> Transcript:
        c, dialect = self.checkpoint, self.checkpoint.dialect
        whole = (0.0, 0.0, float(scene.spec.side_px), float(scene.spec.side_px))
        images.append(view.image)
        named.append(_names(scene.signs, view.size, whole, c.token_px))
        grids = [(1, view.size[1] // c.token_px * c.merge, view.size[0] // c.token_px * c.merge)]
        ids = encode(c.tokenizer, question_text(dialect, f"What is on the {description}?"), [view.tokens])
        learned = [0.0] * len(ids)
        looks: list[tuple[int, int, np.ndarray]] = []
        pad = c.image_pad_id
        first = ids.index(pad)
        if not direct:
            box_px: Box | None = None
            while box_px is None:
                box_px = settle(_noisy(sign.sign_px, random), original.size, 28)
            spoken = to_view(box_px, dialect.frame, view.size, original.size)
            call = c.tokenizer.encode(call_text(spoken), add_special_tokens=False)
            under = _tokens_under(sign.sign_px, view.size, whole, c.token_px)
            looks += [(len(ids) - 1 + k, first, under) for k in range(len(call))]
            ids += call
            learned += [1.0] * len(call)
            if random.random() < tight:
                box_px = _about(sign.text_px, random.uniform(0, 12, 4), original.size, 28)
            crop = cut(original, box_px, original.size, 64, c.token_px)
            images.append(crop.image)
            named.append(_names(scene.signs, crop.size, box_px, c.token_px))
            grids.append((1, crop.size[1] // c.token_px * c.merge, crop.size[0] // c.token_px * c.merge))
            seen = encode(c.tokenizer, observation_text(dialect, CROP_CONTENT, 0, closed=False), [crop.tokens])
            first = len(ids) + seen.index(pad)
            ids += seen
            learned += [0.0] * len(seen)
            shown, region = crop, box_px
        else:
            shown, region = view, whole
        answer = c.tokenizer.encode(answer_text(sign.text), add_special_tokens=False)
        x1, y1, x2, y2 = sign.text_px
        lead, digits = len(c.tokenizer.encode("<answer>", add_special_tokens=False)), len(sign.text)
        for k in range(digits):
            box = (x1 + (x2 - x1) * k / digits, y1, x1 + (x2 - x1) * (k + 1) / digits, y2)
            looks.append((len(ids) - 1 + lead + k, first, _tokens_under(box, shown.size, region, c.token_px)))
        if direct:
            looks.append((len(ids) - 1, first, _tokens_under(sign.text_px, shown.size, region, c.token_px)))
        ids += answer
        learned += [ANSWER_WEIGHT if lead <= k < lead + digits else 1.0 for k in range(len(answer))]
        return Transcript(ids, learned, grids, looks)


def _collate(rows: Sequence[Transcript], pixels: Pixels, named: np.ndarray, c: Checkpoint, kind: str) -> Batch:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), c.pad_id)
    labels = torch.full((len(rows), length), -100)
    weights = torch.zeros((len(rows), length))
    place = torch.zeros((3, len(rows), length), dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    evidence = torch.zeros((len(rows), length, length), dtype=torch.bool)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        weights[i, :n] = torch.tensor(row.weights)
        labels[i, :n] = torch.where(weights[i, :n] > 0, torch.tensor(row.ids), -100)
        place[:, i, :n] = torch.from_numpy(positions(row.ids, row.grids, c.image_pad_id, c.merge))
        mask[i, :n] = True
        for query, first, under in row.looks:
            evidence[i, query, first : first + len(under)] |= torch.from_numpy(under)
    return Batch(ids, place, mask, labels, weights, pixels, evidence, torch.from_numpy(named), kind)


def losses(checkpoint: Checkpoint, head: torch.nn.Module, batch: Batch, guided: bool = True) -> dict[str, Tensor]:
    """Next-token loss, and the two that are thrown away: naming of visual tokens, and the pull of the guided heads."""
    model = checkpoint.model
    if batch.kind == "glance":
        scores = head(model.model.visual(batch.pixels.values, grid_thw=batch.pixels.grids, return_dict=True).pooler_output.float())
        legible = batch.named[:, 1] >= 0
        digits = scores[legible][:, -20:].view(-1, 2, 10).argmax(-1)
        return {"name": _naming_loss(scores, batch.named), "hit": (digits == batch.named[legible, 1:]).float().mean()}
    seen: list[Tensor] = []
    hook = model.model.visual.merger.register_forward_hook(lambda _m, _a, out: seen.append(out))
    try:
        out = model(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            pixel_values=batch.pixels.values,
            image_grid_thw=batch.pixels.grids,
            mm_token_type_ids=(batch.ids == checkpoint.image_pad_id).int(),
            use_cache=False,
            output_attentions=guided,
        )
    finally:
        hook.remove()
    target = batch.labels[:, 1:]
    each = functional.cross_entropy(out.logits[:, :-1].float().flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
    weight = batch.weights[:, 1:].flatten()
    lm = (each * weight).sum() / weight.sum()
    result = {"lm": lm, "name": _naming_loss(head(seen[0].float()), batch.named)}
    if guided:
        attention = out.attentions[GUIDED_LAYER][:, :GUIDED_HEADS].float()
        pulled = batch.evidence.any(-1)
        on = (attention * batch.evidence[:, None]).sum(-1).clamp_min(1e-6).log()
        result["look"] = -(on * pulled[:, None]).sum() / (pulled.sum() * GUIDED_HEADS).clamp_min(1)
    correct = (out.logits[:, :-1].argmax(-1) == target) & (target >= 0)
    answers = batch.weights[:, 1:] > 1
    result["answer"] = each.detach().view_as(answers)[answers].mean()
    result["hit"] = correct[answers].float().mean()
    return result


def optimisers(checkpoint: Checkpoint, head: torch.nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices inside, at ten times the rate; AdamW for embeddings, norms, biases, heads and the wide mergers.

    Muon's cost grows with the cube of a matrix's side: the 512-wide mergers alone would take half of every step.
    """
    inside: list[torch.nn.Parameter] = []
    outside = list(head.parameters())
    for name, parameter in checkpoint.model.named_parameters():
        excluded = any(part in name for part in ("embed_tokens", "lm_head", "pos_embed", "merger"))
        (inside if parameter.ndim == 2 and not excluded else outside).append(parameter)
    return (
        torch.optim.Muon(inside, lr=10 * learning_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outside, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    )


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short rise, a plateau, and a linear fall over the last 30 %."""
    return min(1.0, (step + 1) / 200, max(0.02, (steps - step) / (0.3 * steps)))


def train(cfg: DictConfig, output: Path) -> Checkpoint:
    """Train the base from nothing, or from `output/base.pt` where an interruption left it; the record goes to `record.csv`."""
    phases = tuple(Phase(**phase) for phase in cfg.phases)
    checkpoint = build(build_tokenizer(), cfg.seed)
    model = checkpoint.model
    head = torch.nn.Linear(model.config.text_config.hidden_size, NAMES)
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})  # eager gives attention weights
    optimizers = optimisers(checkpoint, head, cfg.learning_rate)
    steps, start, kept, record = sum(p.samples for p in phases) // cfg.rows, 0, output / "base.pt", output / "record.csv"
    spent = 0.0  # seconds before an interruption
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        start, spent = state["step"], state["seconds"]
    else:
        record.write_text("samples,seconds,kind,batches,answer_loss,look_loss,name_loss,hit\n")
    data = Transcripts(checkpoint, tuple(DIFFICULTY[d] for d in cfg.difficulties), phases, cfg.rows, start)
    batches = iter(DataLoader(data, batch_size=None, num_workers=cfg.workers, prefetch_factor=8 if cfg.workers else None))
    seen: dict[str, list[dict[str, Tensor]]] = {}
    began = time.perf_counter()
    columns = (
        TextColumn("base"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("base", total=steps, completed=start, shown="")
        for step in range(start, steps):
            for optimizer, factor in zip(optimizers, (10, 1), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = factor * cfg.learning_rate * rate(step, steps)
            batch = next(batches)
            with torch.autocast("cpu", torch.bfloat16):
                parts = losses(checkpoint, head, batch)
            weights = {"lm": 1.0, "look": 1.0, "name": 1.0 if batch.kind == "glance" else 0.3}
            torch.stack([weights[name] * parts[name] for name in weights if name in parts]).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            seen.setdefault(batch.kind, []).append({name: value.detach() for name, value in parts.items()})
            if (step + 1) % 250 == 0 or step + 1 == steps:
                _record(record, (step + 1) * cfg.rows, spent + time.perf_counter() - began, seen)
                state = {
                    "model": model.state_dict(),
                    "head": head.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1,
                    "seconds": spent + time.perf_counter() - began,
                }
                torch.save(state, kept.with_suffix(".partial"))
                kept.with_suffix(".partial").rename(kept)
                progress.update(task, shown=" ".join(f"{kind} {_average(rows, 'hit'):.2f}" for kind, rows in sorted(seen.items())))
                seen = {}
            progress.advance(task)
    return checkpoint


def _average(rows: list[dict[str, Tensor]], name: str) -> float:
    values = [float(row[name]) for row in rows if name in row]
    return sum(values) / len(values) if values else float("nan")


def _record(path: Path, samples: int, seconds: float, seen: dict[str, list[dict[str, Tensor]]]) -> None:
    with path.open("a") as out:
        for kind, rows in sorted(seen.items()):
            numbers = ",".join(f"{_average(rows, name):.4f}" for name in ("answer", "look", "name", "hit"))
            out.write(f"{samples},{seconds:.0f},{kind},{len(rows)},{numbers}\n")


def run(cfg: DictConfig) -> None:
    """Train the base and write it in the Hugging Face layout."""
    config.check(cfg, "base")
    torch.set_num_threads(cfg.threads)
    output = Path(cfg.output)
    with config.alone(cfg.output):
        train(cfg, output).save(output / "policy")
    print(f"base policy: {output / 'policy'}   record: {output / 'record.csv'}")


@hydra.main(version_base="1.3", config_path="../conf", config_name="base")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "base")
