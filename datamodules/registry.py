"""Finding things by their file: a method or a corpus is the one subclass in the module that bears its name."""

import importlib
import inspect
from collections.abc import Sequence
from typing import TypeVar

from datamodules.problems import UnknownNameError

T = TypeVar("T")


def find_class(kind: str, name: str, known: Sequence[str], package: str, base: type[T]) -> type[T]:
    """The subclass of ``base`` that the module ``package.name`` defines.

    Args:
        kind: What it is called in the error, such as ``method``.
        name: The module.
        known: Names of all modules of the kind.
        package: Where they are.
        base: What all of them derive from.

    Raises:
        UnknownNameError: If there is no such module; the message lists the near names.
        TypeError: If it defines no such class, or several.
    """
    if name not in known:
        raise UnknownNameError(kind, name, known)
    module = importlib.import_module(f"{package}.{name}")
    classes = [member for _, member in inspect.getmembers(module, inspect.isclass) if member.__module__ == module.__name__]
    found = [member for member in classes if issubclass(member, base)]
    if len(found) != 1:
        raise TypeError(
            f"{module.__file__} defines {len(found)} subclasses of {base.__name__}; a {kind} is one file with one of them"
        )
    return found[0]
