"""Write pairs.jsonl: each ticket with its right answer, and with the answer to another ticket.

python examples/preferences/generate.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICKETS = HERE.parent / "tickets" / "train.jsonl"
PAIRS = 200


def main() -> None:
    """Pair every ticket with the next one that has another answer."""
    rows = [json.loads(line)["messages"] for line in TICKETS.read_text(encoding="utf-8").splitlines()][:PAIRS]
    lines: list[str] = []
    for index, messages in enumerate(rows):
        others = (rows[(index + step) % len(rows)][-1] for step in range(1, len(rows)))
        rejected = next(turn for turn in others if turn != messages[-1])
        pair = {"prompt": messages[:-1], "chosen": [messages[-1]], "rejected": [rejected]}
        lines.append(json.dumps(pair, ensure_ascii=False) + "\n")
    (HERE / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
