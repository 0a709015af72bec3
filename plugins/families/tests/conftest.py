"""Let tests import what stands beside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models are tiny, the cores are shared
sys.path.insert(0, str(Path(__file__).resolve().parent))
