"""A tower that looks at pixels answers as its stored features do; what jobs share is loaded once."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from memvp_core import MemVPConfig, get_memvp_model
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from memvp_train.config import VisionConfig
from memvp_train.features.extract import extract_features
from memvp_train.features.live import pixel_store
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.loaded_model import LoadedJobs
from memvp_train.inference.predict import answer
from memvp_train.inference.prediction_job import PredictionJob
from memvp_train.models.language import build_language_model
from memvp_train.models.vision import build_vision_tower

NUM_IMAGES = 5


@pytest.fixture(scope="module")
def live(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> PredictionJob:
    """Random images, a random tower with four rows of adapters, and a memory that makes them matter."""
    folder = tmp_path_factory.mktemp("live")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=96, patch_size=32))
    tower.save_pretrained(folder / "tower")
    rng, records = np.random.default_rng(0), []
    for number in range(NUM_IMAGES):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(file, "PNG")
        records.append((f"image-{number}", {"png": file.getvalue()}))
    write_shards(folder / "images", records, kind="images")
    asked = (Turn("user", "what colour ?"),)
    write_samples(folder / "samples", [Sample(f"s{n}", (f"image-{n % NUM_IMAGES}",), asked) for n in range(9)])
    vision = VisionConfig(
        str(folder / "tower"), preprocessing="toyworld_96", batch_size=2, feature_dtype="float32", adapter_dim=4
    )
    memvp = MemVPConfig.from_dict({**tiny.memvp, "vision_hidden_size": 16, "num_slots": 9})
    model = get_memvp_model(build_language_model(tiny.language), memvp, build_vision_tower(vision))
    for parameter in model.trainable_state().values():
        torch.nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(folder / "adapter")
    return PredictionJob(
        language=tiny.language,
        adapter=str(folder / "adapter"),
        samples=str(folder / "samples"),
        settings=AnswerSettings(template="toyworld", max_new_tokens=3),
        images=str(folder / "images"),
        vision=vision,
    )


def _texts(job: PredictionJob, out: Path) -> list[str]:
    return [json.loads(line)["text"] for line in answer(job, out).read_text().splitlines()]


def test_live_tower_gives_the_memory_that_its_model_makes_of_the_pixels(live: PredictionJob) -> None:
    loaded = LoadedJobs()
    model, _ = loaded.model(live)
    source = loaded.source(live)
    assert source is not None
    names = [f"image-{number}" for number in range(NUM_IMAGES)]
    found = source.load(names)
    assert model.vision_tower.adapter_size == 4
    assert live.vision is not None
    pixels = pixel_store(str(live.images), live.vision).load(names)
    with torch.no_grad():
        torch.testing.assert_close(found, model.vision_tower(pixels), rtol=1e-5, atol=1e-5)


def test_tower_without_adapters_answers_as_its_stored_features(tiny: Any, live: PredictionJob, tmp_path: Path) -> None:
    assert live.vision is not None
    vision = replace(live.vision, adapter_dim=0)
    memvp = MemVPConfig.from_dict({**tiny.memvp, "vision_hidden_size": 16, "num_slots": 9})
    model = get_memvp_model(build_language_model(tiny.language), memvp)
    torch.manual_seed(1)
    for parameter in model.trainable_state().values():
        torch.nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(tmp_path / "adapter")
    extract_features(str(live.images), tmp_path / "features", vision)
    frozen = replace(live, adapter=str(tmp_path / "adapter"), vision=vision)
    stored = replace(frozen, images=None, vision=None, features=str(tmp_path / "features"))
    texts = _texts(frozen, tmp_path / "frozen")
    assert texts == _texts(stored, tmp_path / "stored")
    assert len(set(texts)) > 1
    assert _texts(live, tmp_path / "live") != texts


def test_model_is_loaded_once_and_let_go_for_the_next(live: PredictionJob) -> None:
    loaded = LoadedJobs()
    model, _ = loaded.model(live)
    assert loaded.model(replace(live, image="none"))[0] is model
    alone = replace(live, adapter=None, images=None, vision=None, image="none")
    assert loaded.model(alone)[0] is not model
    assert loaded.model(live)[0] is not model
