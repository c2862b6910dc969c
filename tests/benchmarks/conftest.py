"""A suite that runs in seconds."""

from pathlib import Path

import pytest

from benchmarks import Suite
from zoo.base import Training


@pytest.fixture
def suite(manifest: Path, tiny_bert: str) -> Suite:
    """Two fast methods, two seeds."""
    return Suite(
        corpus=str(manifest),
        audio="mfcc(n=13, hop_ms=20.0)",
        text=f"hidden_states(checkpoint={tiny_bert!r})",
        methods=["text_only", {"method": "audio_only", "options": {"hidden": 4}}],
        seeds=2,
        training=Training(max_epochs=2, batch_size=16, lr=1e-2),
    )
