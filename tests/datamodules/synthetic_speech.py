"""Something like speech, for tests of what depends on its spectrum."""

import numpy as np


def speech(seed: int, seconds: float = 2.0, rate: int = 16_000) -> np.ndarray:
    """Syllables of a harmonic voice with moving formants and pauses of breath noise: (samples,) float32."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    knots = np.arange(0, seconds + 0.2, 0.1)
    pitch, *formants = (
        np.interp(time, knots, random.uniform(low, high, len(knots))) for low, high in ((100, 220), (300, 900), (900, 2200))
    )
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    loud = np.interp(time, knots, random.uniform(0.02, 1, len(knots)) * (random.random(len(knots)) > 0.2))
    voice = sum(
        np.sin(number * phase) * sum(np.exp(-(((number * pitch - formant) / 150) ** 2)) for formant in formants)
        for number in range(1, 18)
    )
    return (0.3 * loud * voice + 0.002 * random.normal(size=len(time))).astype(np.float32)
