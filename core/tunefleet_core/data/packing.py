"""Which rows share a sequence: the packing that plans count and backends train on.

Best fit, the longest first (Johnson 1974, SIAM J. Comput. 3(4)): never more than 11/9 of the
fewest sequences possible, and near them on rows of real lengths. It follows from the lengths
alone, so that a plan knows the number of sequences and a resumed run packs the same again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence

__all__ = ["pack_rows", "packed_sequences"]


def pack_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the rows of each sequence, by their indices.

    Args:
        lengths: Tokens of each row; a row longer than the capacity has a sequence to itself.
        capacity: Tokens of a sequence at most.

    Returns:
        Sequences in the order of their first rows; the rows of each in their own order.

    Example:
        >>> pack_rows([5, 3, 4, 2], 8)
        [[0, 1], [2, 3]]
    """
    sequences: list[list[int]] = []
    room: list[int] = []  # distinct numbers of tokens that are left in some sequence, rising
    with_room: dict[int, deque[int]] = {}
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[row]
        at = bisect_left(room, length)
        if at == len(room):
            sequence, left = len(sequences), capacity
            sequences.append([])
        else:
            left = room[at]
            sequence = with_room[left].popleft()
            if not with_room[left]:
                del with_room[left], room[at]
        sequences[sequence].append(row)
        _keep_room(room, with_room, sequence, left - length)
    return sorted(sorted(rows) for rows in sequences)


def packed_sequences(lengths: Mapping[int, int], capacity: int) -> int:
    """Return how many sequences rows fill.

    Args:
        lengths: Tokens of a row to the number of rows that have so many.
        capacity: Tokens of a sequence at most; longer rows are left out.

    Example:
        >>> packed_sequences({5: 1, 4: 1, 3: 1, 2: 1}, 8)
        2
    """
    rows = [tokens for tokens, count in lengths.items() if tokens <= capacity for _ in range(count)]
    return len(pack_rows(rows, capacity))


def _keep_room(room: list[int], with_room: dict[int, deque[int]], sequence: int, left: int) -> None:
    if left <= 0:
        return
    if left not in with_room:
        with_room[left] = deque()
        insort(room, left)
    with_room[left].append(sequence)
