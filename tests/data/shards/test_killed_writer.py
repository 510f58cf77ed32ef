"""Writers that are killed or run out of disk: never a wrong file of a final name, and the next run mends it.

test_shards.py kills a writer at every call that it makes; here the moment is left to a clock.
"""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from memvp_data.files.storage import Folder
from memvp_data.shards import ShardError, verify, write_shards
from memvp_data.shards.reader import ShardReader

RECORDS = [(f"k{number:04d}", {"jpg": bytes([number % 256]) * 3000, "txt": b"t"}) for number in range(36)]
SETTINGS = {"kind": "images", "max_shard_samples": 3}

# One process that has imported everything forks writers and kills them after a random part of a writer's usual time.
KILLER = """
    import os, random, shutil, signal, sys, time
    from memvp_data.shards import write_shards
    os.fsync = lambda descriptor: None  # what the kernel has outlives a killed process
    folder, num_kills = sys.argv[1], int(sys.argv[2])

    def records():
        for n in range(36):
            time.sleep(0.001)  # a writer waits for its images
            yield f"k{n:04d}", {"jpg": bytes([n % 256]) * 3000, "txt": b"t"}

    def start(place):
        child = os.fork()
        if not child:
            write_shards(place, records(), kind="images", max_shard_samples=3)
            os._exit(0)
        return child

    def seconds():
        began = time.perf_counter()
        os.waitpid(start(folder + "-timed"), 0)
        shutil.rmtree(folder + "-timed")
        return time.perf_counter() - began

    write_shards(folder + "-timed", records(), kind="images")  # loads what is loaded at the first use
    usual, rng, killed = sorted(seconds() for _ in range(5))[2], random.Random(0), 0
    while killed < num_kills:
        child = start(folder)
        time.sleep(rng.random() * usual)
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == signal.SIGKILL:
            killed += 1
            print(*sorted(os.listdir(folder) if os.path.isdir(folder) else []), flush=True)
            input()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.faults
def test_fifty_writers_killed_at_random_moments(tmp_path: Path) -> None:
    good, folder = tmp_path / "good", tmp_path / "a"
    write_shards(good, RECORDS, **SETTINGS)
    expected = contents(good)
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(folder), "50"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdin is not None
        assert killer.stdout is not None
        states = []
        for line in killer.stdout:
            states.append(line)
            found = contents(folder) if folder.exists() else {}
            whole = {name: data for name, data in found.items() if not name.startswith(".tmp-")}
            assert whole.items() <= expected.items()  # whatever has its final name is what it should be
            assert ("manifest.json" not in whole) or verify(folder) == []
            if len(states) % 2:  # the next writer begins anew, the one after it where that one was killed
                shutil.rmtree(folder, ignore_errors=True)
            killer.stdin.write("\n")
            killer.stdin.flush()
    assert killer.returncode == 0
    assert len(states) == 50
    assert len(set(states)) > 10  # so many different moments were met
    write_shards(folder, RECORDS, **SETTINGS)
    assert contents(folder) == expected


FULL_DISK = """
    import resource, signal, sys
    from memvp_data.shards import write_shards
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    records = [(f"k{n:04d}", {"jpg": bytes([n % 256]) * 3000, "txt": b"t"}) for n in range(36)]
    for limit in map(int, sys.argv[2:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write_shards(f"{sys.argv[1]}/{limit}", records, kind="images", max_shard_samples=3)
        except OSError as error:
            print(limit, error.filename, flush=True)
"""


@pytest.mark.faults
def test_a_full_disk_at_every_file(tmp_path: Path) -> None:
    write_shards(tmp_path / "good", RECORDS, **SETTINGS)
    expected = contents(tmp_path / "good")
    sizes = {name: len(data) for name, data in expected.items()}
    index, manifest, shard = sizes["index.parquet"], sizes["manifest.json"], sizes["images-00000.tar"]
    limits = sorted({1, 512, 5000, index - 1, manifest - 1, shard - 1})
    assert max(limits) < shard or manifest > shard
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), *map(str, limits)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(limits)
    for limit, line in zip(limits, lines, strict=True):
        folder = tmp_path / str(limit)
        assert line.startswith(f"{limit} {folder}/images-00000.tar")
        assert contents(folder) == {}
        write_shards(folder, RECORDS, **SETTINGS)
        assert contents(folder) == expected


@pytest.mark.faults
@pytest.mark.parametrize("name", ["index.parquet", "manifest.json"])
def test_a_disk_that_fills_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The shards fit, what is written after them does not."""
    write_shards(tmp_path / "good", RECORDS, **SETTINGS)

    def full(self: object, wanted: str) -> object:
        if wanted == name:
            raise OSError(28, "No space left on device", wanted)
        return original(self, wanted)

    original = Folder.write
    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(tmp_path / "a", RECORDS, **SETTINGS)
    monkeypatch.undo()
    with pytest.raises(ShardError, match="was not finished"):
        ShardReader(tmp_path / "a")
    write_shards(tmp_path / "a", RECORDS, **SETTINGS)
    assert contents(tmp_path / "a") == contents(tmp_path / "good")
