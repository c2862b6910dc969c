"""What papers report: ``published.csv``, and which of it may stand beside a result of ours.

Columns of the file:

* ``method``: its name in the zoo, or ``other: `` and what it is;
* ``paper``, ``source``: who says it, and where;
* ``corpus``, ``protocol``: by our names; ``protocol`` is empty unless test split, classes and kind of validation are the same, and
  ``protocol_text`` then says what was done instead;
* ``metric``, ``value``: by our names, in percent; `UNCLEAR` holds names of papers that can't be told for one of ours;
* ``derived``: ``yes`` for a value that the paper doesn't print but that follows from what it prints; ``source`` or ``note`` says
  how, and under which assumption;
* ``selection``: how the reported epoch was chosen;
* ``trust``: one of `TRUST`;
* ``note``.
"""

from functools import cache
from pathlib import Path

import pandas as pd

TRUST = ("validated", "probably test-selected", "not comparable")
"""Chosen on validation data, by a public text or code; probably by test scores; or under conditions that nothing here shares."""
UNCLEAR = ("f1", "wa", "accuracy")
"""F1 of an unknown average, "weighted accuracy" of an unclear definition, accuracy over an unknown set of outcomes."""

_FILE = Path(__file__).with_name("published.csv")


@cache
def read_published() -> pd.DataFrame:
    """All published figures; empty cells are empty strings."""
    return pd.read_csv(_FILE, dtype={"value": float}, keep_default_na=False)


def comparable(corpus: str, protocol: str) -> pd.DataFrame:
    """What is published for a corpus under a protocol.

    Args:
        corpus: As results have it: a name, with or without a version.
        protocol: Name and version.
    """
    figures = read_published()
    return figures[(figures["corpus"] == corpus.split()[0]) & (figures["protocol"] == protocol)]


def incomparable(corpus: str, protocol: str) -> pd.DataFrame:
    """What is published for a corpus under any other protocol; arguments as of `comparable`."""
    figures = read_published()
    return figures[(figures["corpus"] == corpus.split()[0]) & (figures["protocol"] != protocol)]


def written(figure: pd.Series, form: str = "g") -> str:
    """A figure's value for reading, marked if the paper doesn't print it.

    Args:
        figure: A row of `read_published`.
        form: Its format.
    """
    return f"{'≈' if figure['derived'] else ''}{figure['value']:{form}}"


def why_not(figure: pd.Series) -> str:
    """Why a figure of another protocol can't stand beside ours."""
    reasons = [figure["protocol_text"] or f"protocol {figure['protocol']}"]
    if figure["derived"] and figure["note"]:
        reasons.append(figure["note"])
    if figure["metric"] in UNCLEAR:
        reasons.append(f"what {figure['metric']} is isn't said")
    return "; ".join(reasons)
