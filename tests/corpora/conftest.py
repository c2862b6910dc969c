"""Lets the tests here import the generators of official layouts beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
