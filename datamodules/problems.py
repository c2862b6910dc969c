"""How bad input is reported: every problem at once, each with file, row and remedy."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input.

    Attributes:
        file: The file to open in order to mend it.
        row: Its line number as an editor shows it (the header of a CSV is line 1), or None for the whole file.
        what: What is wrong, with the offending value.
        remedy: What would be right.
        position: Position in the corpus's table of the row that ``skip_bad`` leaves out; None where leaving out a row is no cure.
        bearable: Whether ``skip_bad`` goes on without leaving out a row, because the rest can be used as it is: a part of the
            corpus is missing, say.
    """

    file: Path
    row: int | None
    what: str
    remedy: str
    position: int | None = None
    bearable: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.row}" if self.row is not None else str(self.file)
        return f"{where}: {self.what}; {self.remedy}"


class BadInputError(ValueError):
    """Input that can't be used as it is; ``problems`` lists everything found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Collect ``problems``; the message has one line for each."""
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the input"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class UnknownNameError(KeyError):
    """A name that nothing has; the message lists the near ones."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        """Say that there is no ``kind`` called ``name`` among the ``known`` ones."""
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known)}"
        self.message = f"no {kind} is called {name!r}; {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message
