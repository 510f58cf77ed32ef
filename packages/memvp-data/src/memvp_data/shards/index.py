"""The index of a folder of shards, `index.parquet`: key to shard, offset, size and hash of every member.

An index comes from outside like the shards do: it is checked against its manifest before anything is read by it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memvp_data.files.storage import Folder, ShardError
from memvp_data.ids import ID_PATTERN, MAX_NAME_BYTES, SampleError
from memvp_data.shards.layout import INDEX_NAME, INDEX_SCHEMA, SUFFIXES, IndexRow, ShardEntry

MAX_MEMBER_BYTES = 1 << 30
MAX_ROWS, MAX_INDEX_BYTES, MAX_TEXT = 100_000_000, 16 << 30, 256


def write_index(folder: Folder, rows: Sequence[IndexRow]) -> str:
    """Write the index and return its hash."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in INDEX_SCHEMA.names)
    arrays = [pa.array(list(column), type=kind.type) for column, kind in zip(columns, INDEX_SCHEMA, strict=True)]
    table, sink = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA), pa.BufferOutputStream()
    if table["name"].null_count == len(table):
        table = table.drop_columns(["name"])
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    with folder.write(INDEX_NAME) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def load_index(folder: Folder, *, sha256: str, shards: Sequence[ShardEntry]) -> pa.Table:
    """The index of a folder, columns of `INDEX_SCHEMA`. Raises `ShardError` if it is not what its manifest says."""
    where = folder.where(INDEX_NAME)
    try:
        data = folder.read(INDEX_NAME)
    except FileNotFoundError:
        raise ShardError(f"{where} is missing; write the shards again") from None
    except OSError as error:
        raise ShardError(f"{where} cannot be read ({error}); write the shards again") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ShardError(f"{where} is damaged: its hash is not the manifest's; write the shards again")
    try:
        table = _parsed(data)
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        raise ShardError(f"{where} is no index of shards ({error}); write the shards again") from None
    _check_places(table, shards=shards, where=where)
    return table


def _parsed(data: bytes) -> pa.Table:
    """The table. A file that would unpack to far more than an index is refused before it does."""
    present = pq.read_schema(pa.BufferReader(data)).names
    texts = [field.name for field in INDEX_SCHEMA if pa.types.is_string(field.type) and field.name in present]
    # As dictionaries: a long text that stands in a million rows is held once until its length is known.
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    if file.metadata.num_rows > MAX_ROWS or sum(group.total_byte_size for group in groups) > MAX_INDEX_BYTES:
        raise ValueError(f"more than {MAX_ROWS:,} rows or {MAX_INDEX_BYTES:,} bytes")
    table = file.read(use_threads=False)
    for name in texts:
        longest = MAX_NAME_BYTES if name == "name" else MAX_TEXT
        if any(max(map(len, chunk.dictionary.to_pylist()), default=0) > longest for chunk in table[name].chunks):
            raise ValueError(f"a {name} of more than {longest} characters")
    if "name" not in present:
        table = table.append_column("name", pa.nulls(len(table), pa.string()))
    return table.cast(INDEX_SCHEMA)


def check_index_rows(shards: Sequence[ShardEntry], *, rows: Iterable[IndexRow]) -> None:
    """Raise `ShardError` unless rows name every key once and agree with the shards' numbers of samples."""
    shard_of_key, seen, rows = dict[str, str](), set[tuple[str, str]](), list(rows)
    for row in rows:
        if shard_of_key.setdefault(row.key, row.shard) != row.shard or (row.key, row.suffix) in seen:
            raise ShardError(f"key {row.key!r} is in {shard_of_key[row.key]} and again in {row.shard}; use a key once")
        seen.add((row.key, row.suffix))
    _check_counts(shards, places=((row.key, row.shard, row.offset) for row in rows))


def _check_counts(shards: Sequence[ShardEntry], *, places: Iterable[tuple[str, str, int]]) -> None:
    """Samples per shard as the index has them: keys that share their bytes (see deduplication.py) count once."""
    first = dict[tuple[str, str], int]()
    for key, name, offset in places:
        first[name, key] = min(offset, first.get((name, key), offset))
    counts = Counter(name for name, _ in {(name, offset) for (name, _), offset in first.items()})
    expected = {shard.name: shard.num_samples for shard in shards if shard.num_samples}
    if counts != expected:
        raise ShardError(
            f"the index has samples per shard {dict(counts)}, the shards have {expected}; write them again"
        )


def _check_places(table: pa.Table, *, shards: Sequence[ShardEntry], where: str) -> None:
    """Every row lies inside a listed shard, under a key and suffix that may be; rows of a key follow each other."""
    lengths = {shard.name: shard.num_bytes for shard in shards}
    keys, names, suffixes, offsets, sizes = (column.to_pylist() for column in table.columns[:5])
    rows = zip(keys, names, suffixes, offsets, sizes, strict=True)
    for key, name, suffix, offset, size in rows:
        sound = (
            suffix in SUFFIXES
            and isinstance(key, str)
            and ID_PATTERN.fullmatch(key)
            and offset is not None
            and size is not None
            and 0 <= offset <= offset + size <= lengths.get(name, -1)
            and size <= MAX_MEMBER_BYTES
        )
        if not sound:
            row = f"{key!r}, {name!r}, {suffix!r}, {offset}, {size}"
            raise ShardError(f"{where} has a row that no sound shard has ({row}); write the shards again")
    _check_names(table, where=where)
    if len(set(keys)) != sum(1 for _ in groupby(keys)):
        raise ShardError(f"{where} has rows of one key apart from each other; write the shards again")
    _check_counts(shards, places=zip(keys, names, offsets, strict=True))


def _check_names(table: pa.Table, *, where: str) -> None:
    """Every key that is shortened has the name that it is made of."""
    named = table.filter(pc.field("name").is_valid())
    try:
        for row in map(IndexRow, *(column.to_pylist() for column in named.columns)):
            _ = row.id
    except SampleError as error:
        raise ShardError(f"{where} has a name that is not its key's ({error})") from None
