"""torchvision's compiled operators do not fit a CPU torch; vLLM needs only its Python part. They are declared before it is imported.

`make test-vllm` copies this file into vLLM's environment, with a .pth line that imports it at every start of Python, so that the
processes which vLLM starts by itself see it too.
"""

import sys
from importlib.abc import MetaPathFinder


class Declare(MetaPathFinder):
    """Steps aside once torchvision is looked for; finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor x) -> Tensor")
            library.define("qnms(Tensor x) -> Tensor")
            torch.torchvision_operators = library  # what it declares lives as long as it does
        return None


sys.meta_path.insert(0, Declare())
