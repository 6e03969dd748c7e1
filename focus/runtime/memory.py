"""Memory of this process: what it held at most, and what nothing refers to any more."""

import gc
import resource

import torch

GIB = 2**30


def free() -> None:
    """Free objects that only refer to each other, such as a trainer and its policy, and return what they held to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def forget_peak() -> None:
    """From now on `peak_gib` is the peak since now. On the CPU it stays that of the whole process: the system keeps only this one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """Most memory that tensors held on the GPU at once, or without a GPU the most that the process held, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
