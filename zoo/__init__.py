"""The zoo: one fusion method per file; the file's stem is the method's name.

A new method is one new file here with one subclass of `zoo.base.FusionModule`; nothing else is edited.
"""

import inspect
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from datamodules.problems import UnknownNameError
from datamodules.registry import find_class

if TYPE_CHECKING:
    from zoo.base import FusionModule

_SHARED = {"base", "nn"}


def list_methods() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)


def get_method(name: str) -> "type[FusionModule]":
    """The class of the method called ``name``.

    Raises:
        UnknownNameError: If there is none; the message lists the near names.
    """
    from zoo.base import FusionModule

    return find_class("method", name, list_methods(), __name__, FusionModule)  # type: ignore[type-abstract]


def method_options(name: str) -> dict[str, object]:
    """Options of a method's constructor with their defaults, in the order of its signature."""
    parameters = inspect.signature(get_method(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def create(name: str, *, audio_dim: int, text_dim: int, num_classes: int, **options: object) -> "FusionModule":
    """Build a method.

    Args:
        name: One of `list_methods`.
        audio_dim: Width Da of the audio feature.
        text_dim: Width Dt of the text feature.
        num_classes: Number of classes C.
        options: Changes to the constructor's defaults, which are the paper's.

    Raises:
        UnknownNameError: For an unknown method or option; the message lists the near names.
    """
    known = method_options(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {name}", option, list(known))
    method: Callable[..., FusionModule] = get_method(name)
    return method(audio_dim, text_dim, num_classes, **options)
