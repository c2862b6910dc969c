"""Data: from a corpus's official files to padded, masked batches.

The path, in order: ``corpora`` (official files -> table of utterances), ``protocols`` (table -> folds),
``features`` (waveform or text -> array), ``store`` (arrays computed once), ``emotion`` (the one LightningDataModule).
Import the submodules; this file stays empty of imports so that ``fusion-zoo --help`` answers at once.
"""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder for everything that can be computed again: features, the demo corpus.

    ``FUSION_ZOO_CACHE`` names it; the default is ``~/.cache/fusion-zoo``. On a server, point it at shared storage.
    """
    return Path(os.environ.get("FUSION_ZOO_CACHE") or Path.home() / ".cache" / "fusion-zoo")
