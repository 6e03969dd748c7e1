"""vLLM as the engine, for models and groups that do not fit the `kv` engine.

A request is sent as token ids, with one placeholder for each image, which vLLM expands. vLLM's
prefix cache finds earlier turns and the prompt that siblings share. vLLM runs in its own processes
on this process's device (`Colocated`) or as a server on other devices (`Remote`). Both sample with
the same banned tokens, temperature and stop tokens as `kv`, and return log-probabilities of that
distribution.

vLLM samples from a copy of the weights, which `sync_weights` renews. On a GPU that both share, the
weights are handed over in the device's memory, one after the other. A server, a vLLM on a CPU and
LoRA adapters get them as a folder in a memory file system. During an update a colocated vLLM sleeps:
it gives its memory back.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch
from peft import PeftModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from focus.model.loading import own_gpu
from focus.model.policy_model import PolicyModel
from focus.model.saving import DTYPES
from focus.rollout.data_urls import DataURLs
from focus.rollout.engine import Completion, Request, Requests, Sampling
from focus.rollout.kv import KVEngine
from focus.runtime.distributed import all_gather, full_tensor, is_first_of_node
from focus.runtime.endpoint import Endpoint, Refused
from focus.runtime.files import is_first_rank

BAN = -100.0  # logit bias of a banned token, the lowest that the protocol allows: a probability of 1e-43 at equal logits
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as max_lora_rank


@dataclass(frozen=True)
class Prompt:
    """A request in vLLM's form: one placeholder token for each image."""

    ids: list[int]
    images: Sequence[Image.Image]
    seed: int


@dataclass(frozen=True)
class VLLMOutput:
    """vLLM's completion of a prompt.

    `prompt_tokens` is the prompt's length with expanded placeholders; `cached` of them were found
    in the prefix cache.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    prompt_tokens: int
    cached: int = 0


class Sampler(Protocol):
    """A vLLM.

    `shared`: all ranks sample from this one (a server). `takes_tensors`: `transfer` works; otherwise
    weights come as a folder.
    """

    shared: bool

    @property
    def takes_tensors(self) -> bool: ...

    def complete(
        self, requests: Requests, prompt_of: Callable[[Request], Prompt], settings: Mapping[str, Any]
    ) -> Iterator[tuple[Request, VLLMOutput]]:
        """Yields requests with their outputs, each as soon as it is complete. Takes new requests meanwhile.

        `settings`: SamplingParams without the seed.
        """
        ...

    def load(self, folder: Path) -> None:
        """Load the weights of the checkpoint in `folder`, and drop any adapter."""
        ...

    def adapt(self, folder: Path) -> None:
        """Load the LoRA adapter in `folder` in place of the previous one."""
        ...

    def transfer(self, weights: Iterable[tuple[str, Tensor]], largest: int) -> None:
        """Load these weights by their names in a checkpoint, and drop any adapter.

        They are taken one after the other; `largest` is the size of the largest, in bytes.
        """
        ...

    def sleep(self) -> None:
        """Give back the device's memory until the next weights come."""
        ...


class Reload:
    """Worker extension for vLLM (`worker_extension_cls`). vLLM's own reload leaves a tied head
    stale if it has a packed copy.
    """

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Load the weights of the checkpoint in `folder`."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.model_runner.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


@dataclass(frozen=True)
class VLLMOptions:
    """Settings of a colocated vLLM. None means vLLM's default, for `max_model_len` what the cache
    holds, at most the model's own limit.

    `images` is the largest number of images in one request.
    """

    dtype: str
    memory_share: float
    cache_gib: float | None
    max_model_len: int | None
    block_size: int | None
    enforce_eager: bool
    images: int
    lora_rank: int


@cache
def colocated(policy: str, options: VLLMOptions) -> "Colocated":
    """The vLLM of this process, started once: a start takes a minute, so later policies reuse it."""
    return Colocated(policy, options)


class Colocated:
    """Implements `Sampler` in vLLM's own processes on this process's device: one vLLM for each GPU.

    `policy` is the folder or hub name of the first weights. vLLM starts when the first weights come:
    a policy that is divided over ranks has left room by then.

    On a GPU a sleeping vLLM has no cache. Whole weights are dropped too, since new ones come before
    it wakes; the frozen ones below an adapter wait in the host's memory.
    """

    shared = False
    extension: type = Reload

    def __init__(self, policy: str, options: VLLMOptions) -> None:
        self.policy, self.options = policy, options
        self._replaced = False  # other weights than those of `policy` are loaded
        self._asleep = False
        self._adapter: Any = None
        self._numbers = count(1)

    @property
    def takes_tensors(self) -> bool:
        return torch.cuda.is_available()

    @cached_property
    def llm(self) -> Any:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # this process has threads and may hold a device
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # handles of device memory are pickled, from here to its process
        import vllm

        options, gpu = self.options, own_gpu()
        adapters = {"enable_lora": True, "max_lora_rank": min(r for r in LORA_RANKS if r >= options.lora_rank)} if options.lora_rank else {}
        block = {} if options.block_size is None else {"block_size": options.block_size}
        with _visible_device(gpu.index if gpu else None):
            return vllm.LLM(
                self.policy,
                dtype=options.dtype,
                gpu_memory_utilization=options.memory_share,
                kv_cache_memory_bytes=None if options.cache_gib is None else int(options.cache_gib * 2**30),
                max_model_len=-1 if options.max_model_len is None else options.max_model_len,
                enforce_eager=options.enforce_eager,
                limit_mm_per_prompt={"image": options.images, "video": 0},
                mm_processor_kwargs={"do_resize": False},
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                enable_sleep_mode=gpu is not None,
                weight_transfer_config={"backend": "ipc"},
                worker_extension_cls=f"{self.extension.__module__}.{self.extension.__name__}",
                **block,
                **adapters,
            )

    def complete(
        self, requests: Requests, prompt_of: Callable[[Request], Prompt], settings: Mapping[str, Any]
    ) -> Iterator[tuple[Request, VLLMOutput]]:
        engine = self.llm.llm_engine
        running: dict[str, Request] = {}
        try:
            while (new := requests.take(0 if running else 1)) or running:
                running |= zip(self._enqueue([prompt_of(request) for request in new], settings), new, strict=True)
                for out in engine.step():
                    if out.finished:
                        turn = out.outputs[0]
                        logprobs = [by_token[token].logprob for token, by_token in zip(turn.token_ids, turn.logprobs, strict=True)]
                        stopped, tokens = turn.finish_reason == "stop", len(out.prompt_token_ids)
                        yield (
                            running.pop(out.request_id),
                            VLLMOutput(tuple(turn.token_ids), tuple(logprobs), stopped, tokens, out.num_cached_tokens),
                        )
        finally:
            engine.abort_request(list(running))

    def _enqueue(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> list[str]:
        """Add prompts to vLLM's queue, and return their names there."""
        if not prompts:
            return []
        from vllm import SamplingParams

        names = self.llm.enqueue(
            [{"prompt_token_ids": p.ids, "multi_modal_data": {"image": list(p.images)}} for p in prompts],
            [SamplingParams(**settings, seed=p.seed) for p in prompts],
            lora_request=self._adapter,
            use_tqdm=False,
        )
        return [name.partition("-")[0] for name in names]  # vLLM appends a random suffix to a request's name

    def load(self, folder: Path) -> None:
        with self._renewed():
            self._adapter, self._replaced = None, True
            self.llm.collective_rpc("load_policy", args=(str(folder),))

    def adapt(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        with self._renewed():
            if self._replaced:  # by an earlier policy of this process; an adapter belongs to the first weights
                self.llm.collective_rpc("load_policy", args=(self.policy,))
                self._replaced = False
            number = next(self._numbers)  # vLLM keeps the old adapter if the number is not new
            self._adapter = LoRARequest(f"focus-{number}", number, str(folder))
            self.llm.llm_engine.add_lora(self._adapter)

    def transfer(self, weights: Iterable[tuple[str, Tensor]], largest: int) -> None:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        with self._renewed(), _shareable_memory():
            self._adapter, self._replaced = None, True
            # Through one buffer. vLLM counts trainers that feed one vLLM together; here each rank is the first of its own
            buffer = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=largest)
            WeightTransferTrainerFactory.trainer_init(buffer, client=_WeightSync(self.llm), source=weights).send_weights()

    def sleep(self) -> None:
        if "llm" in vars(self) and not self._asleep:
            self.llm.sleep(level=1 if self.options.lora_rank else 2)
            self._asleep = True

    @contextmanager
    def _renewed(self) -> Iterator[None]:
        """A block that loads weights: their memory is there within, that of the cache after it."""
        self._wake("weights")
        yield
        self._wake("kv_cache")
        self._asleep = False
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def _wake(self, part: str) -> None:
        torch.cuda.empty_cache()  # PyTorch keeps what this process has freed, also from a vLLM that starts
        if self._asleep:
            self.llm.wake_up([part])


@dataclass(frozen=True)
class _WeightSync:
    """The calls by which a weight transfer drives vLLM (its `VLLMWeightSyncClient`), on a vLLM of this process."""

    llm: Any

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.llm.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.llm.finish_weight_update()


@contextmanager
def _shareable_memory() -> Iterator[None]:
    """A block in which PyTorch does not allocate from expandable segments: to open one in another process is slow, and may be denied."""
    from vllm.device_allocator import alloc_conf

    before = alloc_conf.current_alloc_conf()
    expandable = alloc_conf.conf_flag_enabled(before, alloc_conf.EXPANDABLE_SEGMENTS)
    if expandable:
        alloc_conf.set_alloc_conf(alloc_conf.with_conf_flag(before, alloc_conf.EXPANDABLE_SEGMENTS, False))
    try:
        yield
    finally:
        if expandable:
            alloc_conf.set_alloc_conf(before)


@contextmanager
def _visible_device(device: int | None) -> Iterator[None]:
    """Processes started within the block see only this GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device] if visible else str(device)
    try:
        yield
    finally:
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


class Remote:
    """Implements `Sampler` on a vLLM server. docs/train-7b.md has the command that starts one."""

    shared = True
    takes_tensors = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._adapter, self._urls = endpoint, "", DataURLs()

    def complete(
        self, requests: Requests, prompt_of: Callable[[Request], Prompt], settings: Mapping[str, Any]
    ) -> Iterator[tuple[Request, VLLMOutput]]:
        sent: list[Request] = []

        def sends() -> Iterator[Callable[[], VLLMOutput]]:
            for request in requests:
                sent.append(request)
                yield partial(self._generate, prompt_of(request), settings)

        for i, output in self.endpoint.send_all(sends()):
            if isinstance(output, Refused):
                raise output
            yield sent[i], output

    def _generate(self, prompt: Prompt, settings: Mapping[str, Any]) -> VLLMOutput:
        body = {
            "model": self._adapter or self.endpoint.model,
            "token_ids": prompt.ids,
            "content_parts": [{"type": "image_url", "url": self._urls.of(image)} for image in prompt.images],
            "sampling_params": {**settings, "seed": prompt.seed},
            "return_token_ids": True,
        }
        return self.endpoint.post("/inference/v1/generate", body, _parse_output)

    def load(self, folder: Path) -> None:
        self._adapter = ""
        self.endpoint.command("/collective_rpc", {"method": "load_policy", "args": [str(folder)]})
        for name in ("prefix", "mm", "encoder"):
            self.endpoint.command(f"/reset_{name}_cache", {})

    def adapt(self, folder: Path) -> None:
        if self._adapter:
            self.endpoint.command("/v1/unload_lora_adapter", {"lora_name": self._adapter})
        self._adapter = f"focus-{uuid4().hex}"  # the server may still hold adapters of an earlier run
        self.endpoint.command("/v1/load_lora_adapter", {"lora_name": self._adapter, "lora_path": str(folder)})

    def transfer(self, weights: Iterable[tuple[str, Tensor]], largest: int) -> None:
        raise AssertionError("a server takes weights as a folder")

    def sleep(self) -> None:
        """Drop the images of the last rollouts. The server's devices are its own."""
        self._urls = DataURLs()


def _parse_output(body: Any) -> VLLMOutput:
    choice = body["choices"][0]
    logprobs = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    return VLLMOutput(tuple(choice["token_ids"]), tuple(logprobs), choice["finish_reason"] == "stop", len(body["prompt_token_ids"]))


class VLLMEngine:
    """Implements `Engine` over a running vLLM.

    `dtype` is that of vLLM's weights. `folder` holds them while vLLM loads them, where they are not
    handed over in memory. `logprobs` uses the trainer's own network (`kv`), since vLLM's prompt log-probabilities ignore the banned
    tokens. Raises ValueError if the policy has adapters where vLLM applies none.
    """

    shares_weights = False

    def __init__(self, policy: PolicyModel, sampler: Sampler, folder: Path, dtype: str) -> None:
        self.policy, self.sampler, self.folder, self.dtype = policy, sampler, folder, dtype
        self.kv = KVEngine(policy)
        self.syncs = 0
        adapted = [name for name, _ in policy.model.named_parameters() if "lora_" in name and ".visual." in name]
        if adapted:
            raise ValueError(
                f"policy.lora_targets put {len(adapted)} adapters into the vision tower (first: {adapted[0]}), where vLLM applies none; "
                "set policy.train_vision=false, or use rollout=kv"
            )

    def generate(self, requests: Requests, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        assert self.syncs, "call sync_weights() before the first generate()"
        policy = self.policy
        settings = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "stop_token_ids": policy.stop_ids,
            "ignore_eos": True,  # otherwise vLLM also stops at the tokenizer's eos token
            "logit_bias": dict.fromkeys(policy.banned_ids, BAN),
            "logprobs": 0,  # only of the sampled token
            "detokenize": False,
        }
        for request, output in self.sampler.complete(requests, self._prompt_of, settings):
            if output.prompt_tokens != len(request.ids):
                name = request.trajectory.sample.id if request.trajectory else request.id
                raise ValueError(
                    f"sample {name}: vLLM counts {output.prompt_tokens} prompt tokens, {len(request.ids)} were expected: its image "
                    "processor resizes images. Start the server with --mm-processor-kwargs '{\"do_resize\": false}'"
                )
            yield request, Completion(output.ids, output.logprobs, output.stopped)

    def _prompt_of(self, request: Request) -> Prompt:
        """The request in vLLM's form. Of the placeholders of an image one is left."""
        pad, ids = self.policy.image_pad_id, request.ids
        collapsed = [token for before, token in zip((None, *ids), ids, strict=False) if token != pad or before != pad]
        return Prompt(collapsed, request.images, request.seed)

    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        return self.kv.logprobs(requests, tails)

    def clear_cache(self) -> None:
        self.kv.clear_cache()

    def sleep(self) -> None:
        self.sampler.sleep()

    def sync_weights(self) -> None:
        """Give vLLM the policy's weights. All ranks call it together.

        Raises ValueError if a folder for them can't be written.
        """
        self.kv.clear_cache()
        self.syncs += 1
        model = self.policy.model
        if self.sampler.takes_tensors and not isinstance(model, PeftModel):
            dtype = DTYPES[self.dtype]
            weights = ((name, value.to(dtype)) for name, value in self.policy.plain_state())
            self.sampler.transfer(weights, max(p.numel() for p in model.parameters()) * dtype.itemsize)
        else:
            self._sync_by_folder()

    def _sync_by_folder(self) -> None:
        """The first rank writes the folder for a server, the first rank of each node for the vLLMs of that node."""
        writes = is_first_rank() if self.sampler.shared else is_first_of_node()
        adapter = isinstance(self.policy.model, PeftModel)
        try:
            if adapter:
                self._write_adapter(writes)
            else:
                self.policy.save(self.folder, self.dtype, writes)
        except (OSError, SafetensorError) as error:  # SafetensorError: the file system is full
            raise ValueError(
                f"the weights can't be written to {self.folder} ({error}); set a folder with enough free space: rollout.vllm.weights=FOLDER"
            ) from error
        if writes or not self.sampler.shared:
            if adapter:
                self.sampler.adapt(self.folder)
            else:
                self.sampler.load(self.folder)
        all_gather(None)  # wait until all ranks have loaded them
        if writes:
            shutil.rmtree(self.folder)

    def _write_adapter(self, writes: bool) -> None:
        state = {name: full_tensor(value) for name, value in self.policy.model.state_dict().items() if "lora_" in name}
        if writes:
            self.policy.model.save_pretrained(str(self.folder), state_dict=state)
        all_gather(None)
