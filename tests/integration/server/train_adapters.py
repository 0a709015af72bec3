"""Make a tiny base and train two adapters on it, for real: run by the trl environment's Python.

    python train_adapters.py FOLDER [SIZE OF A HEAD]

Leaves FOLDER/base, FOLDER/colours and FOLDER/numbers: adapters with their contract.json,
written by the trl backend as in any run.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the model is tiny, the cores are shared
ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "plugins" / "families"))  # a plugin of the services, not of this environment
sys.path.insert(0, str(ROOT / "plugins" / "trl" / "tests"))

import trl_lab as lab  # noqa: E402  # found through the lines above

NUMBERS = (("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier"))


def main() -> None:
    """Train both adapters."""
    folder = Path(sys.argv[1])
    # Engines have their smallest head; a template that shows tools adds 500 tokens of this tokenizer.
    sizes = {"head_dim": int(sys.argv[2]), "max_position_embeddings": 1024} if len(sys.argv) > 2 else {}
    base = lab.build_base(folder / "base", model_type="qwen3", **sizes)
    for name, words in (("colours", lab.PAIRS), ("numbers", NUMBERS)):
        work = folder / f"{name}-run"
        work.mkdir()
        run = lab.run_colours(base, work, lab.train_spec(steps=60, dropout=0.0), words=words)
        shutil.copytree(run.output, folder / name)


if __name__ == "__main__":
    main()
