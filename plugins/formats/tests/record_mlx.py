"""Record what mlx-lm converts: affine groups of every number of bits that the format has.

    python plugins/formats/tests/record_mlx.py BASE     (in an environment with mlx-lm)

BASE is a folder that `tiny_base.build_base` wrote where there is torch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from recording import record_folder

LIBRARIES = ("mlx", "mlx-lm", "transformers")

if __name__ == "__main__":
    from mlx_lm import convert

    with tempfile.TemporaryDirectory() as place:
        for bits in (2, 3, 4, 5, 6, 8):
            folder = Path(place) / f"{bits}bit"
            convert(sys.argv[1], str(folder), quantize=True, q_bits=bits, q_group_size=64)
            made_by = f"convert(quantize=True, q_bits={bits}, q_group_size=64)"
            print(record_folder(f"mlx-{bits}bit", folder, made_by=made_by, libraries=LIBRARIES))
