"""Store equal images once: a second key for the same bytes is a row of the index and nothing else.

Datasets share images under different names (COCO's are in VQA v2, GQA and LLaVA's mix). Whoever extracts features from
such a folder sees each image once, and every name finds its features.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from memvp_data.shards.layout import IndexRow

Record = tuple[str, dict[str, bytes]]


def content_hash(members: Mapping[str, bytes]) -> str:
    """SHA-256 of all members, names included."""
    found = hashlib.sha256()
    for suffix, data in sorted(members.items()):
        found.update(f"{suffix} {len(data)} ".encode())
        found.update(data)
    return found.hexdigest()


def distinct(records: Iterable[Record], *, same: dict[str, str]) -> Iterator[Record]:
    """Records whose content is new; the keys of the others go into `same`, each with the key of the first one."""
    first = dict[str, str]()
    for key, members in records:
        stored = first.setdefault(content_hash(members), key)
        if stored == key:
            yield key, members
        else:
            same[key] = stored


def with_same(rows: Sequence[IndexRow], *, same: Mapping[str, str]) -> list[IndexRow]:
    """The rows, and after those of a stored key a copy for each key in `same` that stands for it."""
    others = dict[str, list[str]]()
    for key, stored in sorted(same.items()):
        others.setdefault(stored, []).append(key)
    found = list[IndexRow]()
    for key, members in _by_key(rows):
        found.extend(members)
        found.extend(row.under(other) for other in others.get(key, ()) for row in members)
    return found


def same_of(rows: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    """Of (key, shard, offset) rows: the keys that stand for another one, each with the key first stored there."""
    first, same = dict[tuple[str, int], str](), dict[str, str]()
    for key, shard, offset in rows:
        stored = first.setdefault((shard, offset), key)
        if stored != key:
            same[key] = stored
    return same


def _by_key(rows: Sequence[IndexRow]) -> Iterator[tuple[str, list[IndexRow]]]:
    members = dict[str, list[IndexRow]]()
    for row in rows:
        members.setdefault(row.key, []).append(row)
    yield from members.items()
