"""Bytes of a device in every phase of a run, of its host, and on disk.

Each phase is planned for the longest rollouts that the settings allow, the update also for as many shorter ones as fill a forward.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from focus.config import DRAWN
from focus.config.identity import sampler_dtype
from focus.config.schema import PlanConfig
from focus.config.views import shown_tokens
from focus.model.caches import SLOTS_ADDED
from focus.model.policy_model import LOGITS_BYTES, TOWER_TOKENS
from focus.model.saving import DTYPES
from focus.planning.hardware import GIB, IMAGE_BYTES, PROCESS_BYTES, VLLM_ASLEEP, VLLM_BESIDE
from focus.planning.lengths import Lengths, micro_batch
from focus.planning.setup import Setup
from focus.planning.shape import Shape
from focus.rollout.kv import PREFILL_TOKENS
from focus.rollout.memory import LONGER, questions_that_fit
from focus.rollout.substitutes import SUBSTITUTES
from focus.training.checkpoints import KEPT
from focus.training.probe_callback import ProbeCallback

Terms = dict[str, float]
PREFETCH = 2  # batches that every data worker has ready, PyTorch's default


def playing(shape: Shape, longest: Lengths, groups: float, siblings: float, plain: float = 0.0, replayed: bool = False) -> Terms:
    """Bytes of the engine `kv` at the widest moment, while `groups` questions are played by `siblings` rows each.

    It is one of five: the views pass the tower, the prompts pass the text layers; the last crops pass the tower, then the text
    layers, beside the caches of the turn before and of the turn that begins; the last turn ends, and its finished rows are copied.

    `plain` rows a question begin without a crop beside them. `replayed`: rows begin with all their turns but the last, which are fed
    at once, and the pictures of the rows that they replay are kept.
    """
    rows, turns = groups * (siblings + plain), math.ceil(longest.turns)
    # a mean of 1.3 turns: all rows have a first turn, 0.3 of them a second
    finished = max(min(1.0, longest.turns - turn + 1) * (longest.before(turn) + longest.turn) for turn in range(1, turns + 1))
    cropping, of_a_row = groups * siblings * min(1.0, longest.turns - 1), (longest.turns - 1) * longest.crop
    new, crops, before = longest.reply + longest.crop, longest.crop, longest.before(turns - 1) + longest.turn  # of a row that cropped
    if replayed:
        new, crops, before = longest.before(turns), of_a_row, 0.0
    views, seen = groups * longest.view, groups * (siblings + replayed) * of_a_row
    fed, crops = rows + cropping * new, cropping * crops
    prompts = {"cache, prompts": groups * longest.prompt * shape.cached, "recurrent states": (groups + 2 * rows) * shape.state}
    begun = prompts | {
        "cache, the turn before": cropping * before * shape.cached,
        "cache, the turn": rows * (longest.before(turns) + 1 + SLOTS_ADDED) * shape.cached,
    }
    pictures, hidden = {"features of pictures": shape.features(views + seen)}, {"hidden states": shape.kept_inputs(fed) / shape.layers}
    moments: list[Terms] = [
        {"tower on views": shape.tower_passing(min(views, max(longest.view, TOWER_TOKENS)))},
        prompts | {"features of pictures": shape.features(views), "text layers on prompts": shape.passing(groups * longest.prompt)},
        begun
        | {
            "features of pictures": shape.features(views + seen - crops),
            "tower on crops": shape.tower_passing(min(crops, max(longest.crop, TOWER_TOKENS))),
        },
        begun | pictures | hidden | {"text layers on crops": shape.passing(min(fed, max(1 + new, PREFILL_TOKENS)))},
        prompts
        | pictures
        | hidden
        | {
            "cache, the turn": rows * (longest.before(turns) + 1 + longest.turn + SLOTS_ADDED / 2) * shape.cached,
            "cache, finished rows": rows * finished * shape.cached,
            "logits of a decoding step": shape.drawing(rows),
        },
    ]
    return max(moments, key=lambda terms: sum(terms.values()))


def _widest(terms: Terms) -> Terms:
    """The largest of these terms, which are not there at the same time."""
    largest = max(terms, key=lambda name: terms[name])
    return {largest: terms[largest]}


def _state(setup: Setup) -> Terms:
    """What is there from the first update to the last: weights and moments of this rank."""
    counts, held = setup.counts, setup.held
    replicated = counts.visual if held.kind == "fsdp" and not setup.learns else 0
    divided = (counts.total - replicated) / held.share(("fsdp",))
    return (
        {
            "weights": (divided + replicated) * held.stored,
            "moments": 2 * counts.trainable * setup.learned_bytes / held.share(("fsdp", "zero2")),
            # autocast keeps a bfloat16 copy of trained weights until the end of the update
            "autocast copies": 2.0 * counts.trainable if held.mixed else 0.0,
        }
        | _copied(setup)
        | _frozen_readers(setup)
    )


def _copied(setup: Setup) -> Terms:
    """The copy of the weights that learn, from which kv samples while they do."""
    return (
        {"weights that sample": float(setup.counts.trainable * setup.learned_bytes)} if setup.cfg.rollout.overlap and not setup.vllm else {}
    )


def _gathered(setup: Setup) -> Terms:
    """The weights that FSDP gathers to play with them."""
    counts, held = setup.counts, setup.held
    replicated = counts.visual if not setup.learns else 0
    return {"gathered weights": float((counts.total - replicated) * held.arithmetic)} if held.kind == "fsdp" else {}


def together(setup: Setup, each: Lengths, longer: float = LONGER) -> int:
    """Questions that the engine `kv` of one rank plays at a time, if its rollouts are as long as these (focus/rollout/memory.py).

    `longer`: how much longer it expects the next ones to be.
    """
    chosen = setup.cfg.rollout.questions_per_forward
    if chosen or setup.cfg.device == "cpu":
        return min(setup.questions, chosen or setup.questions)
    free = setup.device.memory - sum((_state(setup) | _gathered(setup)).values())
    visual = each.view + longer * setup.rollouts * (each.turns - 1) * each.crop
    lengths = each.prompt, visual, longer * each.suffix
    return min(setup.questions, questions_that_fit(free, setup.shape.config, setup.held.arithmetic, *lengths, setup.rollouts))


def widest_update(setup: Setup) -> Terms:
    """The widest moment of an update, whatever the lengths of its rollouts.

    A forward takes as many rollouts as `objective.tokens_per_forward` holds, and pictures take more memory than words. So rollouts
    of mean and of longest turns are tried, with every number of crops.
    """
    longest, mean = setup.longest, setup.mean
    between = {mean.turns, *range(math.ceil(mean.turns), math.floor(longest.turns) + 1), longest.turns}
    tried = [mean, *(replace(longest, turns=turns, turn=turn) for turns in between for turn in (mean.turn, longest.turn))]
    return max((updating(replace(setup, longest=each)) for each in tried), key=lambda terms: sum(terms.values()))


def updating(setup: Setup) -> Terms:
    """The widest moment of an update on the longest rollouts: at the head, or in the backward of a text layer."""
    cfg, counts, held, shape, longest = setup.cfg, setup.counts, setup.held, setup.shape, setup.longest
    groups, rows = micro_batch(longest, setup.rollouts, cfg.objective.tokens_per_forward)
    groups, rows = min(groups, setup.questions), min(rows, setup.questions * setup.rollouts)
    pictures = groups * longest.view + rows * (longest.turns - 1) * longest.crop
    learned = groups * longest.prompt + rows * longest.suffix
    layer = shape.layer_activations(longest.prompt, longest.suffix, groups, rows)
    # A part's new gradient, before it is added to the stored one. FSDP reduces it in float32, beside the part's gathered weights
    divided = held.kind == "fsdp"
    gathered, gradient = (held.arithmetic, held.arithmetic + 4) if divided else (0, held.stored)
    gradient = 0 if counts.adapters else gradient
    kept = {
        "gradients": counts.trainable * setup.learned_bytes / held.share(("fsdp", "zero2")) * (2 if held.kind == "ddp" else 1),
        # beside the layers: embedded tokens with their pictures, the last norm, and hidden states
        "activations, text": (shape.kept_inputs(learned) if setup.checkpointed else shape.layers * layer) + 12 * learned * shape.width,
        "activations, tower": shape.tower_activations(pictures, setup.checkpointed) if setup.learns else 0.0,
        "features of pictures": shape.features(pictures),
    }
    # four of float32 (scaled, their logarithms, probabilities and a gradient), for as many tokens as are weighed at once. Of several
    # chunks the head's gradient is summed up beside them
    logits = min(16 * shape.words * rows * longest.sampled, 4 * LOGITS_BYTES)
    summed = gradient if logits == 4 * LOGITS_BYTES or divided else 0
    moments = [
        {"logits": logits, "the head and its gradient": counts.embedding * float(gathered + summed)},
        {
            "a layer computed again": layer if setup.checkpointed else 0.0,
            "gradients within a layer": shape.passing(learned),
            "gathered layers and a gradient": counts.layer * float(2 * gathered + gradient) if divided else 0.0,
        },
    ]
    return kept | max(moments, key=lambda terms: sum(terms.values()))


def vllm(setup: Setup) -> Terms:
    """Bytes of a device in a colocated vLLM's share while it samples, and of the longest conversation, which its cache must hold.

    Empty for another engine and for a vLLM on devices of its own.
    """
    options = setup.cfg.rollout.vllm
    if options is None or options.mode == "served":
        return {}
    weights = setup.counts.total * DTYPES[sampler_dtype(setup.cfg.model_dump())].itemsize
    share = options.memory_share * setup.device.memory
    cache = share - weights - VLLM_BESIDE if options.cache_gib is None else options.cache_gib * GIB
    view = max(setup.longest.view, shown_tokens(setup.cfg, setup.cfg.gap.view_tokens))
    longest = setup.longest.seen_at(view)
    one = (longest.prompt + longest.suffix) * setup.shape.cached
    return {"weights": float(weights), "beside": float(VLLM_BESIDE), "cache": cache, "the longest conversation": one}


def _gain_readers(setup: Setup) -> tuple[set[str], bool]:
    """Who reads labels after crops (`policy`, `start`, or a folder), and whether the policy does in every update."""
    terms = [each for each in setup.cfg.reward.terms.values() if each["_target_"].endswith((".InformationGain", ".CropOnly"))]
    measured = [each for each in terms if each["weight"] or each.get("every", 20)]
    readers = [(each.get("reader") or ("start" if each["weight"] else "policy"), bool(each["weight"])) for each in measured]
    return {reader for reader, _ in readers}, ("policy", True) in readers


def _frozen_readers(setup: Setup) -> Terms:
    """Weights of the readers that do not learn. The one of the start shares what is frozen in the policy."""
    counts, held = setup.counts, setup.held
    size = {"start": float(counts.trainable * setup.learned_bytes)}
    frozen = _gain_readers(setup)[0] - {"policy"}
    return {"weights of frozen readers": sum(size.get(reader, float(counts.total * held.stored)) for reader in frozen)} if frozen else {}


def _gain(setup: Setup, groups: float) -> Terms:
    """Bytes of the information gain of conversations that were played together: each is fed again, with other crops."""
    shape, longest, rows = setup.shape, setup.longest, groups * setup.rollouts
    turns = math.ceil(longest.turns)
    kept = sum(longest.before(turn) + longest.turn for turn in range(1 if _gain_readers(setup)[1] else turns, turns + 1))
    pictures = groups * longest.view + 2 * rows * (longest.turns - 1) * longest.crop
    crops = rows * (longest.turns - 1) * longest.crop
    return {
        "cache, prompts": groups * longest.prompt * shape.cached,
        "cache, finished rows": 0.0 if setup.vllm else rows * kept * shape.cached,
        "cache, fed again": rows * longest.suffix * shape.cached,
        "features of pictures": shape.features(pictures),
    } | _widest(
        {"tower on crops": shape.tower_passing(min(crops, max(longest.crop, TOWER_TOKENS))),
         "text layers": shape.passing(min(rows * longest.suffix, max(longest.suffix, PREFILL_TOKENS)))}
    )  # fmt: skip


def played(cfg: PlanConfig, arms: Sequence[str]) -> set[str]:
    """The arms that are played, `own` among them; `conflict` only where images are drawn, which have a twin."""
    drawn = cfg.data.source in DRAWN and not cfg.evaluation.records
    return {arm for arm in ("own", *arms) if arm != "conflict" or drawn}


def evaluating(setup: Setup, shape: Shape, samples: int | None, view: float, arms: Sequence[str]) -> Terms:
    """Bytes of playing held-out questions: the arm `own`, then all others at once, which share their prompts."""
    at_once = setup.cfg.evaluation.questions_per_forward
    questions = at_once if samples is None else min(at_once, math.ceil(samples / setup.held.ranks))
    longest, others = setup.longest.seen_at(view), played(setup.cfg, arms) - {"own"}
    own = playing(shape, longest, questions, 1)
    replayed = len(others & SUBSTITUTES.keys())
    all_others = playing(shape, longest, questions, replayed, len(others) - replayed, replayed=True) if others else own
    return max(own, all_others, key=lambda terms: sum(terms.values()))


def phases(setup: Setup) -> dict[str, Terms]:
    """Bytes of a device by phase and term."""
    cfg, counts, held, e = setup.cfg, setup.counts, setup.held, setup.cfg.evaluation
    state, asleep = _state(setup), {}
    rollout = _gathered(setup) | playing(setup.shape, setup.longest, together(setup, setup.longest, 1.0), setup.rollouts)
    groups = setup.questions if setup.vllm else together(setup, setup.longest, 1.0)
    gain = _gathered(setup) | _gain(setup, groups)
    probe = _gathered(setup) | evaluating(setup, setup.shape, e.probe_samples, shown_tokens(cfg, cfg.gap.view_tokens), ProbeCallback.ARMS)
    view = shown_tokens(cfg, max(cfg.gap.view_tokens, e.common_view_tokens))
    evaluation = evaluating(setup, setup.evaluated, e.samples, view, e.arms)
    if setup.vllm:
        share = vllm(setup)
        asleep = {"vLLM, asleep": float(VLLM_ASLEEP)} if share else {}
        rollout = probe = evaluation = {f"vLLM, {name}": share[name] for name in ("weights", "beside", "cache") if share}
        gain = rollout | gain
    found: dict[str, Terms] = {
        "loading": {"weights, whole": float(counts.total * held.stored)},
        "rollout": state | rollout,
        "update": state | widest_update(setup) | asleep,
    }
    if _gain_readers(setup)[0]:
        found["information gain"] = state | gain
    if e.samples != 0 and e.probe_every:
        found["probe"] = state | probe
    if e.samples != 0:
        found["evaluation"] = {"weights": float(counts.total * setup.evaluated.held.stored)} | evaluation
    return found


def disk(setup: Setup) -> Terms:
    """Bytes on disk: checkpoints, one of them being written, and the policy."""
    counts = setup.counts
    one = counts.total * setup.held.stored + 2 * counts.trainable * setup.learned_bytes
    policy = counts.total * setup.exported
    return {"one checkpoint": float(one), "policy": float(policy), "in all": float((KEPT + 1) * one + policy)}


def host(setup: Setup) -> Terms:
    """Bytes of memory of one node: its processes, their images, and a checkpoint or a policy while it is written.

    Weights are read onto a GPU tensor by tensor.
    """
    held, whole = setup.held, disk(setup)
    images = setup.questions * IMAGE_BYTES * (1 + setup.cfg.rollout.overlap)
    found = {
        "processes": float(held.per_node * PROCESS_BYTES),
        "images of an update": float(held.per_node * images),
        "images that workers have ready": float(held.per_node * setup.cfg.data.workers * PREFETCH * images),
    }
    if setup.cfg.device == "cpu":
        whole_copy = setup.counts.total * held.stored + sum(_copied(setup).values())
        found["weights, each process its own copy"] = float(held.per_node * whole_copy)
    return found | _widest({"writing a checkpoint": whole["one checkpoint"], "writing the policy": whole["policy"]})
