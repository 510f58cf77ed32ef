"""Training from pixels: as from stored features while the tower is frozen; its adapters train and are kept."""

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from memvp_core import MemVPModel, VisionTower
from memvp_core.files import read_tensors
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from memvp_train.checkpoints.state import FolderCheckpoints, read_state
from memvp_train.config import ConfigError, LaunchConfig, StageRun, VisionConfig
from memvp_train.features.extract import extract_features
from memvp_train.features.live import LiveFeatures, pixel_store
from memvp_train.models.language import ModelError, build_language_model
from memvp_train.models.vision import build_tower
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.result import StageResult
from memvp_train.training.stage import run_stage
from memvp_train.training.worker import train_here
from tests.train.conftest import COLOURS, MEMVP
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)
NUM_ROWS, WIDTH = 9, 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image shards, a tower that nobody trained, and samples with no, one and two images."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    records, samples = [], []
    for number, colour in enumerate(COLOURS):
        file, shade = BytesIO(), torch.randint(0, 256, (3,), generator=generator).tolist()
        Image.new("RGB", (20, 20), tuple(shade)).save(file, "PNG")
        records.append((f"image-{number}", {"png": file.getvalue()}))
        turns = (Turn("user", "what colour ?"), Turn("assistant", colour))
        images = {2: (), 5: ("image-5", "image-6")}.get(number, (f"image-{number}",))
        samples.append(Sample(f"sample-{number}", images, turns))
    write_shards(folder / "images", records, kind="images", max_shard_samples=3)
    write_samples(folder / "samples.parquet", samples)
    torch.manual_seed(0)
    settings = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=96,
        patch_size=32, initializer_range=0.3,
    )  # fmt: skip
    CLIPVisionModel(settings).save_pretrained(folder / "tower")
    return folder


def stage_run(tiny: Any, pictures: Path, out: Path, *, adapter_dim: int, **stage: Any) -> StageRun:
    settings = {"num_steps": 4, "global_batch_size": 4, "micro_batch_size": 1, **stage}
    run = tiny.run(out, **settings)
    vision = VisionConfig(
        str(pictures / "tower"), preprocessing="toyworld_96", layer=-1, adapter_dim=adapter_dim,
        feature_dtype="float32",
    )  # fmt: skip
    memvp = {**MEMVP, "num_slots": 2 * NUM_ROWS, "vision_hidden_size": WIDTH}
    return replace(
        run, samples=str(pictures / "samples.parquet"), features=None, images=str(pictures / "images"), vision=vision,
        memvp=memvp,
    )  # fmt: skip


def losses(result: StageResult) -> list[float]:
    return [row["loss"] for row in read_metrics(Path(result.metrics_path))]


def test_a_frozen_tower_gives_the_losses_of_stored_features(tiny: Any, pictures: Path, tmp_path: Path) -> None:
    live = stage_run(tiny, pictures, tmp_path / "live", adapter_dim=0)
    assert live.vision is not None
    extract_features(pictures / "images", tmp_path / "features", live.vision)
    stored = replace(live, features=str(tmp_path / "features"), images=None, vision=None, out=str(tmp_path / "stored"))
    # Float32; the tower sees other batches of images.
    found, expected = losses(run_stage(live, HERE)), losses(run_stage(stored, HERE))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def trained(tiny: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return run_stage(stage_run(tiny, pictures, tmp_path_factory.mktemp("trained"), adapter_dim=3), HERE)


def test_adapters_train_and_are_kept_with_the_memory(tiny: Any, pictures: Path, trained: StageResult) -> None:
    tensors, _ = read_tensors(Path(trained.adapter_path) / "adapter_model.safetensors")
    assert tensors["vision_tower.adapters.keys"].shape == (2, 3, WIDTH)
    assert tensors["vision_tower.adapters.values"].any()  # zero at the start
    vision = stage_run(tiny, pictures, Path("unused"), adapter_dim=3).vision
    assert vision is not None
    model = MemVPModel.from_pretrained(
        build_language_model(tiny.language), trained.adapter_path, build_tower(vision)
    ).eval()
    tower = model.vision_tower
    assert isinstance(tower, VisionTower)
    source = LiveFeatures(tower, pixel_store(pictures / "images", vision), batch_size=2)
    names = ["image-4", "image-0", "image-4"]
    features = source.load(names)
    assert features.shape == (3, NUM_ROWS, WIDTH)
    assert source.num_rows == NUM_ROWS
    assert "image-7" in source
    assert "image-8" not in source
    with torch.no_grad():
        expected = tower(pixel_store(pictures / "images", vision).load(names))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    # The adapters do something to them.
    with torch.no_grad():
        tower.adapters.values.zero_()
    assert not torch.allclose(source.load(names), features, atol=1e-4)


def test_it_resumes_and_loader_processes_change_nothing(
    tiny: Any, pictures: Path, tmp_path: Path, trained: StageResult
) -> None:
    whole = (Path(trained.adapter_path) / "adapter_model.safetensors").read_bytes()
    run = stage_run(tiny, pictures, tmp_path, adapter_dim=3)
    beside = LaunchConfig(num_workers=0, loader_processes=1)
    again = run_stage(run, beside)
    assert (Path(again.adapter_path) / "adapter_model.safetensors").read_bytes() == whole
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000004")
    shutil.rmtree(again.adapter_path)
    (tmp_path / "result.json").unlink()
    run_stage(run, HERE)
    assert (Path(again.adapter_path) / "adapter_model.safetensors").read_bytes() == whole


REFUSED: dict[str, tuple[Any, str]] = {
    "too few slots for two images": (
        lambda run: replace(run, memvp={**run.memvp, "num_slots": NUM_ROWS}),
        r"sample 'sample-5' has 2 image\(s\) of 9 rows, the memory has num_slots 9; set it to 18 or more",
    ),
    "too few slots for one": (
        lambda run: replace(run, memvp={**run.memvp, "num_slots": 8}),
        "9 rows per image, memvp.num_slots is 8; set it to 9",
    ),
    "another width": (
        lambda run: replace(run, memvp={**run.memvp, "vision_hidden_size": 9}),
        "are 8 wide, memvp.vision_hidden_size is 9; set it to 8",
    ),
    "too few image embeddings": (
        lambda run: replace(
            run,
            samples=str(Path(run.samples).with_name("three.parquet")),
            memvp={**run.memvp, "num_slots": 27, "num_images": 2},
        ),
        "sample 'three' has 3 images, memvp.num_images is 2; set it to 3",
    ),
    "an image that is not there": (
        lambda run: replace(run, samples=str(Path(run.samples).with_name("strange.parquet"))),
        r"1 images of .* are not in .*/images \('elsewhere'\); write shards with all images first",
    ),
    "averaged rows": (
        lambda run: replace(run, vision=replace(run.vision, pool_side=1)),
        r"with a live tower set vision\.grid",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_training(tiny: Any, pictures: Path, tmp_path: Path, name: str) -> None:
    turns = (Turn("user", "what colour ?"), Turn("assistant", "red"))
    write_samples(pictures / "strange.parquet", [Sample("s", ("elsewhere",), turns)])
    write_samples(pictures / "three.parquet", [Sample("three", ("image-1", "image-2", "image-3"), turns)])
    change, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        run_stage(change(stage_run(tiny, pictures, tmp_path, adapter_dim=0)), HERE)
    assert not (tmp_path / "checkpoints").exists()


def test_sources_of_images_that_exclude_each_other(tiny: Any, pictures: Path, tmp_path: Path) -> None:
    run = stage_run(tiny, pictures, tmp_path, adapter_dim=0)
    with pytest.raises(ConfigError, match="features and images are both set"):
        replace(run, features=str(tiny.features))
    with pytest.raises(ConfigError, match="go together; set both or neither"):
        replace(run, vision=None)


def test_stage_2_wants_the_tower_that_stage_1_had(
    tiny: Any, pictures: Path, tmp_path: Path, trained: StageResult
) -> None:
    run = replace(stage_run(tiny, pictures, tmp_path / "out", adapter_dim=3), init_adapter=trained.adapter_path)
    again = run_stage(replace(run, stage=replace(run.stage, learning_rate=1e-30, num_steps=1)), HERE)
    before, after = (read_tensors(Path(one.adapter_path) / "adapter_model.safetensors")[0] for one in (trained, again))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    other = replace(run, vision=replace(run.vision, adapter_dim=0), out=str(tmp_path / "other"))  # type: ignore[type-var]
    with pytest.raises((ModelError, ValueError), match=r"vision_tower\.adapters\.keys"):
        run_stage(other, HERE)


@pytest.mark.slow
def test_two_ranks_equal_one_process_whatever_is_split(
    tiny: Any, pictures: Path, tmp_path: Path, trained: StageResult
) -> None:
    """ZeRO 0 (plain data parallelism), 2 and 3; dropout off, since ranks draw masks of their own."""
    still = {"memory_dropout": 0.0}

    def prepared(name: str, launch: LaunchConfig) -> WorkerPlan:
        run = stage_run(tiny, pictures, tmp_path / name, adapter_dim=3)
        vision = replace(run.vision, adapter_dropout=0.0)  # type: ignore[type-var]
        return plan_of(replace(run, vision=vision, memvp={**run.memvp, **still}), launch)

    stages = {f"zero-{stage}": LaunchConfig(num_workers=2, zero_stage=stage) for stage in (0, 2, 3)}
    tiny.train_ranks(*(prepared(name, launch) for name, launch in stages.items()), num_ranks=2)
    here = prepared("here", HERE)
    train_here(here, checkpoints=FolderCheckpoints(tmp_path / "here" / "checkpoints"))
    states = {
        name: read_state(FolderCheckpoints(tmp_path / name / "checkpoints").candidates()[0])
        for name in ("here", *stages)
    }
    for name in stages:
        # Sums in another order, and Adam's division magnifies the last bits.
        torch.testing.assert_close(states[name].weights, states["here"].weights, rtol=0, atol=1e-4)
