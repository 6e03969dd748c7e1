"""Devices that a run can be planned for. Peaks are from the vendors' datasheets."""

from dataclasses import dataclass

GIB = 2**30
# Share of the peak that prefill, vision tower and update reach: Qwen2.5-VL-7B and Qwen3-VL-8B, FSDP2, packed, on A800 reach 0.30 to 0.40
# (https://lmms-engine.readthedocs.io/en/stable/reference/mfu.html, "Image Models")
COMPUTE_SHARE = 0.35
# Share of the memory bandwidth that decoding reaches. [unverified]: serving engines reportedly reach 0.55 to 0.60 on A100 and H100;
# no source could be opened, and a plain PyTorch loop will be slower
BANDWIDTH_SHARE = 0.55
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
