"""From LLaVA's 665K records to a samples table: records per second and peak memory, of a made-up file of that size.

    python benchmarks/data_hand_over.py               (about two minutes of one core; 1 GB in a temporary folder)

A file in the layout of `llava_v1_5_mix665k.json` is written: records of one to ten rounds, one in sixteen text only,
about as many bytes as the real one, its images looked up on disk. Each step then runs in a process of its own, so
that the peak is its own: `read` streams the samples, `table` writes them to Parquet (validated, compressed, synced).
Rates are per second of processor time, which other work on the machine changes less than the clock's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from memvp_data.datasets.llava import read_conversations
from memvp_data.samples import write_samples

NUM_RECORDS, NUM_IMAGES, WORDS_PER_ANSWER = 665_298, 2_000, 14
MAX_PEAK_BYTES = 2 << 30
WORDS = "the bus on left of a red street stands behind two people who wait for it in rain near station".split()
STEPS = ("read", "table")
_ONE_STEP = ["--one-step"]


def records(count: int) -> Iterator[str]:
    """Records as JSON, drawn from a fixed seed."""
    rng = Random(0)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randrange(2, 2 * WORDS_PER_ANSWER))) for _ in range(5_000)]
    for number in range(count):
        said = [
            {"from": "gpt" if place % 2 else "human", "value": rng.choice(sentences)}
            for place in range(2 * rng.randrange(1, 11))
        ]
        record: dict[str, Any] = {"id": f"{number:09d}", "conversations": said}
        if number % 16:
            said[0]["value"] = f"<image>\n{said[0]['value']}"
            record["image"] = image_name(number % NUM_IMAGES)
        yield json.dumps(record)


def image_name(number: int) -> str:
    """As in the mix."""
    return f"coco/train2017/{number:012d}.jpg"


def write_mix(folder: Path, *, count: int) -> Path:
    """The file and its (empty) images."""
    (folder / image_name(0)).parent.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        (folder / image_name(number)).touch()
    path = folder / "llava_v1_5_mix665k.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        file.writelines(f"{',' if place else ''}{record}\n" for place, record in enumerate(records(count)))
        file.write("]")
    return path


def run_step(step: str, path: Path) -> dict[str, float]:
    """One step in this process: records, seconds, peak bytes (resident, Python and its libraries included)."""
    start, start_cpu = time.perf_counter(), time.process_time()
    samples = read_conversations(path, image_root=path.parent)
    count = sum(1 for _ in samples) if step == "read" else write_samples(path.with_suffix(".parquet"), samples)
    clock, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {"records": count, "clock_seconds": clock, "cpu_seconds": cpu, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most that this process ever held in memory."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        # Linux: unlike ru_maxrss it starts anew with the program, and is not at least what its parent held.
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(step: str, path: Path) -> dict[str, float]:
    """`run_step` in a process of its own, without the libraries that only the measuring needs."""
    command = [sys.executable, __file__, *_ONE_STEP, step, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    from measuring import machine_line, mebibytes, parser, set_up, write_result

    options = parser(__doc__).parse_args()
    facts, count = set_up(options), 2_000 if options.smoke else NUM_RECORDS
    with tempfile.TemporaryDirectory() as folder:
        path = write_mix(Path(folder), count=count)
        num_bytes = path.stat().st_size
        print(f"{count:,} records, {mebibytes(num_bytes)}; {machine_line(facts)}", flush=True)
        results = {step: measured(step, path) for step in STEPS}
    for step, result in results.items():
        rate = f"{result['records'] / result['cpu_seconds']:,.0f} records/s"
        print(f"{step:5}  {rate:>16}  {result['cpu_seconds']:6.1f} s  peak {mebibytes(result['peak_bytes'])}")
        if result["peak_bytes"] > MAX_PEAK_BYTES:
            raise SystemExit(f"{step} held more than {mebibytes(MAX_PEAK_BYTES)}")
    write_result(options.out, "data_hand_over", {"file_bytes": num_bytes, "steps": results}, facts=facts)


if __name__ == "__main__":
    if sys.argv[1:2] == _ONE_STEP:
        print(json.dumps(run_step(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
