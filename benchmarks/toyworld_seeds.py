"""The demo with three training seeds, and a control trained blind: `python benchmarks/toyworld_seeds.py --storage DIR`.

The control is the same job on the same records with the images taken out of both training files; its test questions
keep theirs. What it gets right over the base model is habit, not sight. Needs about four times as long as `make demo`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

RECIPE = "pipelines/recipes/toyworld.yaml"
TRAINING_FILES = ("blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json")
ROWS = ("base", "text_ceiling", "stage1", "stage2", "stage2_no_image", "stage2_other_image")


def run_job(storage: Path, *, name: str, overrides: list[str]) -> dict[str, float]:
    """Accuracy by row of one job; of stage 2 on unseen pairs too, and text-only questions before and after."""
    command = [sys.executable, "pipelines/instruct_tune.py", "--config", RECIPE, f"--storage={storage}"]
    subprocess.run([*command, f"--name={name}", *overrides], check=True)
    rows = json.loads((storage / name / "report.json").read_text())["rows"]
    scores = {row: rows[row]["accuracy"] for row in ROWS}
    scores["unseen"] = rows["stage2"]["unseen"]["accuracy"]
    return scores | {f"{row} text-only": rows[row]["text_only"]["accuracy"] for row in ("base", "stage2")}


def take_images_out(official: Path, *, out: Path) -> Path:
    """A copy of the official files whose training records name no image."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("images", "test"):
        (out / name).symlink_to(official / name)
    for name in TRAINING_FILES:
        records = json.loads((official / name).read_text())
        for record in records:
            record.pop("image", None)
            for turn in record["conversations"]:
                turn["value"] = turn["value"].replace("<image>\n", "")
        (out / name).write_text(json.dumps(records))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    args = parser.parse_args()
    storage, found = args.storage.resolve(), {}
    for seed in args.seeds:
        overrides = [f"--stage1.seed={seed}", f"--stage2.seed={seed}"]
        found[f"seed {seed}"] = run_job(storage, name="toyworld", overrides=overrides)
        print(json.dumps({f"seed {seed}": found[f"seed {seed}"]}), flush=True)
    official = next((storage / "toyworld" / "build_shards").glob("*/official_files"))
    root = take_images_out(official, out=storage / "blind-files")
    found["blind"] = run_job(storage, name="blind", overrides=["--data.toyworld=null", f"--data.root={root}"])
    for column in found["blind"]:
        print(f"{column:20s}" + "".join(f"{name} {100 * scores[column]:5.1f}   " for name, scores in found.items()))


if __name__ == "__main__":
    main()
