"""Devices that a run can be planned for, and how much of them a run reaches. Peaks are from the vendors' datasheets.

No GPU has run this code. Where a constant is not measured its bounds are wide, and a plan's seconds are orders of magnitude.
"""

from dataclasses import dataclass

from focus.planning.bounds import Bounds

GIB = 2**30
# Share of the peak that prefill, vision tower and update reach. Qwen2.5-VL-7B with FSDP2, packed, on A800: 0.30 to 0.40
# (https://lmms-engine.readthedocs.io/en/stable/reference/mfu.html, "Image Models"). EasyR1, Qwen2.5-VL-7B, on H100: 0.136 to 0.192
# (hiyouga/EasyR1, assets/baselines.md, commit 46c6c21, "Actor MFU")
COMPUTE_SHARE = Bounds(0.136, 0.40)
# Share of the memory bandwidth that decoding reaches. [unverified]: serving engines reportedly reach 0.55 to 0.60 on A100 and H100; no
# source could be opened. The lower one is a guess for a loop in PyTorch
BANDWIDTH_SHARE = Bounds(0.3, 0.6)
# Seconds of one decoding step of `kv` for each text layer, however few its rows: the host starts 67 operations a layer. [unverified]:
# 22.6 ms of one CPU core for 28 layers of tiny width, without a GPU, 30 to 34 ms with FSDP's hooks; 40 ms is a guess with launches
KV_STEP = Bounds(0.8e-3, 1.4e-3)
# Seconds of one step of vLLM beyond reading memory: scheduling, sampling with a seed for each request. [unverified]: a guess
VLLM_STEP = Bounds(5e-3, 20e-3)
# Seconds in which one weight reaches a colocated vLLM. [unverified]: verl reports 3.5 s for 9B (verl-project/verl#7203). The upper one is
# a file: 26 s of one CPU core to write 8.3 G weights here, and a guess for reading them
PUBLISH = Bounds(0.4e-9, 7e-9)
# Seconds in which vLLM starts: weights, graphs. [unverified]: a guess
VLLM_START = Bounds(60, 240)
# Seconds of one CPU core for the hash of one weight. Measured here: 5.8 s for 894 M
HASH = 6.5e-9
# Bytes/s that a process reads or writes on the file system of outputs/ and of the policy. [open]
DISK = Bounds(0.5e9, 5e9)
# Bytes of a Python process with PyTorch and CUDA beside its data. [open]
PROCESS_BYTES = 3 * GIB
# Bytes of a decoded training image: 3840 x 2160 pixels. [open]: it depends on the data
IMAGE_BYTES = 3 * 3840 * 2160
# Bytes of vLLM beside weights and cache while it is awake (activations, graphs), and asleep. [unverified]: guesses
VLLM_BESIDE = 4 * GIB
VLLM_ASLEEP = 2 * GIB
# Part of a device's memory that a plan may use; the rest is for the CUDA context and fragmentation. [open]
USABLE = 0.9


@dataclass(frozen=True)
class Device:
    """Dense peaks in FLOP/s, memory in bytes, bandwidths in bytes/s: `link` to devices of the node, `network` to other nodes, one way."""

    bfloat16: float
    float32: float
    bandwidth: float
    memory: float
    link: float
    network: float


# Between nodes: InfiniBand HDR for each A100 and NDR for each H100 (NVIDIA DGX A100 and H100 datasheets); 10 Gb/s Ethernet elsewhere [open]
DEVICES = {
    # NVIDIA A100 80GB SXM datasheet (nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf); NVLink 600 GB/s both ways
    "a100_80gb": Device(312e12, 19.5e12, 2039e9, 80e9, 300e9, 25e9),
    # NVIDIA H100 SXM datasheet: 1,979 TFLOPS with sparsity, half without; 67 TFLOPS float32; NVLink 900 GB/s both ways
    "h100_80gb": Device(989.5e12, 67e12, 3350e9, 80e9, 450e9, 50e9),
    # NVIDIA H200 SXM datasheet: the arithmetic of an H100 with 141 GB at 4.8 TB/s
    "h200": Device(989.5e12, 67e12, 4800e9, 141e9, 450e9, 50e9),
    # NVIDIA Ada GPU architecture whitepaper, table of the RTX 4090: bfloat16 with float32 sums; PCIe 4.0 x16, 32 GB/s each way
    "rtx_4090": Device(165.2e12, 82.6e12, 1008e9, 24e9, 32e9, 1.25e9),
    # Two cores of 2.5 GHz with two 512-bit multiply-adds each, two channels of DDR4-3200: a nominal machine, not this one
    "cpu": Device(320e9, 320e9, 51.2e9, 24e9, 10e9, 1.25e9),
}
