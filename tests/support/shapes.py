"""Shapes that annotations state are checked while tests run, in every module of focus that states some.

Only what jaxtyping describes is checked, at each call: classes and protocols are mypy's, and tests put stand-ins in their place.
"""

from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook
from jaxtyping._import_hook import _JaxtypingLoader


def enforce() -> None:
    """To be called before focus is imported."""
    [folder] = find_spec("focus").submodule_search_locations or ()
    root = Path(folder).parent
    stating = [path for path in Path(folder).rglob("*.py") if "from jaxtyping import" in path.read_text()]
    install_import_hook([".".join(path.relative_to(root).with_suffix("").parts) for path in stating], "tests.support.shapes.checked")
    # jaxtyping gives cached code another name while a module is executed, also the code of all that it imports: torch, transformers
    # and 3,000 files more are compiled for 12 seconds in every process. These few modules can do without a cache
    _JaxtypingLoader.exec_module = SourceFileLoader.exec_module
    _JaxtypingLoader.get_code = lambda self, _: self.source_to_code(self.get_data(self.path), self.path)


def checked(function: Callable) -> Callable:
    """The function with its annotated shapes checked by beartype; jaxtyping's import hook calls this."""
    annotations = function.__annotations__
    shapes = {name: hint for name, hint in annotations.items() if _has_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    try:
        return beartype(function)
    finally:
        function.__annotations__ = annotations


def _has_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))
