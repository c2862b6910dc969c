"""Lets the tests here, and the processes that they start, import ``toy_feature``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
