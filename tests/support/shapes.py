"""Shapes that annotations state are checked while tests run, in every module of focus that states some.

Only what jaxtyping describes is checked, at each call: classes and protocols are mypy's, and tests put stand-ins in their place.
jaxtyping's own import hook would do the same in twice the time of a whole run: it wraps functions without shapes too, checks what is
given to a function twice, and compiles all that such a module imports (torch, transformers) anew in every process.
"""

import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

NAME = "_checked_by_tests"


def enforce() -> None:
    """To be called before focus is imported."""
    [folder] = find_spec("focus").submodule_search_locations or ()
    root = Path(folder).parent
    stating = [path for path in Path(folder).rglob("*.py") if "from jaxtyping import" in path.read_text()]
    sys.meta_path.insert(0, _Finder({".".join(path.relative_to(root).with_suffix("").parts) for path in stating}))


class _Finder(MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.names else None
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    """Makes `checked` the innermost decorator of every function of a module, and the outermost of every class."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list.append(ast.copy_location(ast.Name(NAME, ast.Load()), node))
            elif isinstance(node, ast.ClassDef):
                node.decorator_list.insert(0, ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)


def checked(made: Callable) -> Callable:
    """A function, or a data class when it is made, with its annotated shapes checked."""
    if isinstance(made, type):
        if is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = checked(made.__init__)
        return made
    annotations = made.__annotations__
    shapes = {name: hint for name, hint in annotations.items() if _has_shape(hint)}
    if not shapes:
        return made
    made.__annotations__ = shapes
    try:
        return jaxtyped(beartype(made), typechecker=None)
    finally:
        made.__annotations__ = annotations


def _has_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))
