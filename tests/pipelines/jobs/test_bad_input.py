"""Input that cannot work gives an exit code, one sentence that names the thing, no traceback and no ruins."""

import json
import shutil
import socket
import sqlite3
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.instruct_tune import main
from tests.pipelines.official_files import data_overrides, record, write_official_files

# No workers: everything happens in this process, so no Ray is started for a mistake.
HERE = ("--launch.num_workers=0", "--stage1.num_steps=1", "--stage2.num_steps=1", "--evaluate.num_pictures=1")


@dataclass
class Job:
    """Runs the entry point in this process on files of its own."""

    root: Path
    """official files"""
    storage: Path
    """all runs"""
    recipe: Path
    """smoke.yaml"""
    printed: pytest.CaptureFixture[str]
    """what the process printed"""

    def run(self, *overrides: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        arguments = ["--config", str(self.recipe), f"--storage={self.storage}", *HERE, *data_overrides(self.root)]
        code = main([*arguments, *overrides])
        out, err = self.printed.readouterr()
        return code, out, err

    def refused(self, *overrides: str) -> tuple[int, str]:
        """(exit code, the sentence); fails unless it is exactly one line and nothing is half-done."""
        code, _, err = self.run(*overrides)
        assert code in (1, 2)
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert not list(self.storage.rglob("*.tmp"))
        return code, lines[0]


@pytest.fixture
def job(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str], empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Job:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    storage = tmp_path / "runs"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    root = write_official_files(tmp_path / "data")
    return Job(root, storage, repository / "pipelines/recipes/smoke.yaml", capsys)


def test_misspelt_setting(job: Job) -> None:
    code, sentence = job.refused("--stage1.lerning_rate=1")
    assert code == 2
    assert "did you mean 'stage1.learning_rate'" in sentence


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--launch.use_gpu=true"], "launch.num_workers=0 needs 1 GPU, but torch sees 0 on this machine"),
        (["--launch.use_gpu=true", "--launch.num_workers=2"], "launch.num_workers=2 needs 2 GPUs, but torch sees 0"),
        (["--launch.num_workers=2", "--launch.cpus_per_worker=999"], "launch.cpus_per_worker=999 is more than the"),
        (["--launch.num_workers=1000", "--stage1.global_batch_size=1000", "--stage2.global_batch_size=1000",
          "--stage1.micro_batch_size=1", "--stage2.micro_batch_size=1"], "launch.num_workers=1000 would share the"),
    ],
    ids=["GPU", "GPUs", "cores", "workers"],
)  # fmt: skip
def test_more_than_this_machine_has_is_refused_before_the_first_step(
    job: Job, settings: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, sentence = job.refused(*settings)
    assert code == 2
    assert said in sentence
    assert not list(job.storage.rglob("build_shards"))


@pytest.mark.parametrize("way", [(), ("--dry-run",)], ids=["run", "dry_run"])
def test_a_storage_that_was_moved_is_refused_before_the_first_step(job: Job, way: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(job.storage / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = 'file:///old/runs/mlflow-artifacts'")
    code, sentence = job.refused(*way)
    assert code == 2
    assert f"the storage {job.storage} was at /old/runs when" in sentence
    assert f"run python -m pipelines.tracking.moved {job.storage} once" in sentence
    assert not list(job.storage.rglob("build_shards"))


def test_missing_data_file(job: Job) -> None:
    (job.root / "talks.json").unlink()
    code, sentence = job.refused()
    assert code == 2
    assert "data.stage2.conversations" in sentence
    assert "talks.json" in sentence


def test_a_set_with_a_folder_of_images_and_no_image(job: Job) -> None:
    (job.root / "talks.json").write_text(json.dumps([record("t", [("what colour is a red star ?", "red")])]))
    _, sentence = job.refused("--until=build_shards")
    assert "data.stage2 has the image folder" in sentence
    assert "none of its 1 records names an image" in sentence


def test_images_under_another_name(job: Job) -> None:
    talks = json.loads((job.root / "talks.json").read_text())
    for talk in talks[:-1]:
        talk["picture"] = talk.pop("image")
    (job.root / "talks.json").write_text(json.dumps(talks))
    _, sentence = job.refused("--until=build_shards")
    assert "talks.json, record 0 (id 't0'): it says <image> and has no \"image\"" in sentence


def test_a_dry_run_counts_the_files_that_are_there(job: Job) -> None:
    code, out, _ = job.run("--dry-run")
    assert code == 0
    features = next(line for line in out.splitlines() if "extract_features" in line)
    assert features.rstrip(" │").endswith("0.00 GB")  # of 8 pictures; for LLaVA's 900,000 it said 9 GB


def test_the_share_without_an_image_is_said(job: Job) -> None:
    code, out, _ = job.run("--until=build_shards")
    assert code == 0
    assert "samples (share without an image): stage1 8 (0%), stage2 9 (11%), image 8 (0%)" in out


def test_blank_and_repeated_samples_are_said(job: Job) -> None:
    talks = json.loads((job.root / "talks.json").read_text())
    talks.append({**talks[0], "id": "again"})
    talks.append(
        {**talks[1], "id": "blank", "conversations": [talks[1]["conversations"][0], {"from": "gpt", "value": " "}]}
    )
    (job.root / "talks.json").write_text(json.dumps(talks))
    code, out, _ = job.run("--until=build_shards")
    assert code == 0
    assert "look at the samples of stage2: 1 with a blank answer to learn, 1 there again under another id" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--launch.num_workers=2", "--launch.precision=fp16"), "fp16 with launch.zero_stage 2 needs launch.use_gpu"),
        (("--language.load_in_4bit=true",), "language.load_in_4bit needs launch.use_gpu; on a CPU take bf16"),
        (("--tracking.registered_model=a/b:c",), "must be a name without '/' and ':', got 'a/b:c'"),
        (("--tracking.gate.min_score=93",), "is an accuracy between 0 and 1 here, got 93.0; try 0.9"),
        (
            ("--stage1.micro_batch_size=64", "--stage1.global_batch_size=8"),
            "micro_batch_size 64 is above global_batch_",
        ),
    ],
)
def test_what_would_be_refused_after_hours_is_refused_at_once(
    job: Job, settings: tuple[str, ...], message: str
) -> None:
    code, sentence = job.refused(*settings)
    assert code == 2
    assert message in sentence
    assert not (job.storage / "smoke").exists()


def test_unreachable_mlflow_server(job: Job) -> None:
    code, sentence = job.refused("--tracking.uri=http://127.0.0.1:9")
    assert code == 2
    assert "http://127.0.0.1:9 does not answer" in sentence
    assert not (job.storage / "smoke/build_shards").exists()


def test_fewer_slots_than_patches(job: Job) -> None:
    code, sentence = job.refused("--memvp.num_slots=35")
    assert code == 2
    assert "36 rows per image, memvp.num_slots is 35; set it to 36 or more" in sentence


def test_features_and_model_of_different_width(job: Job) -> None:
    code, sentence = job.refused("--memvp.vision_hidden_size=64")
    assert code == 2
    assert "are 128 wide, memvp.vision_hidden_size is 64; set it to 128" in sentence


def test_preprocessing_of_another_tower(job: Job) -> None:
    code, sentence = job.refused("--vision.preprocessing=clip_224")
    assert code == 2
    assert "makes images of 224 pixels" in sentence


@pytest.mark.parametrize("group", ["language", "vision"])
def test_model_that_is_not_there(job: Job, group: str) -> None:
    _, sentence = job.refused(f"--{group}.path={job.root}/no-such-model")
    assert "no-such-model" in sentence


def test_lora_on_layers_that_do_not_exist(job: Job) -> None:
    _, sentence = job.refused("--stage2.lora.target_modules=[query_proj]")
    assert "query_proj" in sentence


def test_unknown_template(job: Job) -> None:
    code, sentence = job.refused("--stage2.template=vicuna")
    assert code == 2
    assert "stage2.template must be one of" in sentence


def test_busy_port(job: Job) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        code, sentence = job.refused("--launch.num_workers=2", f"--launch.dashboard_port={port}")
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in sentence


def test_record_with_a_missing_image(job: Job) -> None:
    (job.root / "images/train/003.jpg").unlink()
    code, sentence = job.refused()
    assert code == 1
    assert "captions.json, record 3 (id 'c3')" in sentence
    assert "train/003.jpg" in sentence


def bomb() -> bytes:
    """The first bytes of a PNG that claims 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk, data = b"IHDR" + header, struct.pack(">I", 64) + b"IDAT" + bytes(64)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (lambda whole: whole[:-20], "damaged or truncated"),
        (lambda _: b"no picture at all", "not a readable JPEG, PNG or WebP"),
        (lambda _: bomb(), "is too large (Image size (900000000 pixels)"),
    ],
    ids=["truncated", "renamed text", "30,000 x 30,000"],
)
def test_image_that_cannot_be_used(job: Job, content: Callable[[bytes], bytes], phrase: str) -> None:
    path = job.root / "images/train/003.jpg"
    path.write_bytes(content(path.read_bytes()))
    code, sentence = job.refused()
    assert code == 1
    assert "train/003.jpg" in sentence
    assert phrase in sentence


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd"])
def test_image_name_that_leaves_its_folder(job: Job, name: str) -> None:
    records = json.loads((job.root / "captions.json").read_text())
    records[2] = record("c2", [("<image>\ndescribe", "red")], image=name)
    (job.root / "captions.json").write_text(json.dumps(records))
    code, sentence = job.refused()
    assert code == 1
    assert name in sentence
    assert "record 2" in sentence


def test_storage_that_cannot_be_written(job: Job) -> None:
    (job.storage / "smoke").write_text("a file where the run folder should be")
    code, sentence = job.refused()
    assert code == 1
    assert "cannot write to the storage folder" in sentence


def test_bug_keeps_its_traceback(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("our bug")

    monkeypatch.setattr("pipelines.jobs.run.make_run_folder", broken)
    with pytest.raises(KeyError):
        job.run()


def test_mended_input_goes_on_and_the_rest_is_reused(job: Job) -> None:
    """A whole job in this process: refused for one picture, mended, finished, damaged, mended again."""
    path = job.root / "images/train/003.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    job.refused()
    path.write_bytes(whole)
    code, out, err = job.run()
    assert code == 0, err
    assert out.splitlines()[0] == str(job.storage)
    assert "re-used" not in out.replace("re-used from an earlier submission: nothing", "")
    _, out, _ = job.run()
    assert "re-used from an earlier submission: build_shards, extract_features, stage1, stage2, evaluate" in out
    (adapter,) = job.storage.glob("smoke/stage1/*/adapter/adapter_model.safetensors")
    adapter.write_bytes(b"damaged")
    _, out, _ = job.run()
    assert "stage 1: projector + positions: made again, because" in out
    assert "re-used from an earlier submission: build_shards, extract_features, stage2, evaluate, register" in out
