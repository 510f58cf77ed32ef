"""The guided attention of the language model's training script, and the two models that are shipped."""

import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

from memvp_data.images import preprocess
from memvp_data.toyworld import model_path
from memvp_data.toyworld.draw import draw_scene
from memvp_data.toyworld.language import TASKS, ask, caption
from memvp_data.toyworld.scenes import COLOURS, SHAPES, sample_scene

PRETRAINING = Path(__file__).parents[3] / "pipelines" / "pretraining"


@pytest.fixture(scope="module")
def training():
    sys.path.insert(0, str(PRETRAINING))
    import train_language

    yield train_language
    sys.path.remove(str(PRETRAINING))


def test_every_look_points_at_what_it_names(training):
    """A referring word is led to things that share its word; the answer's place to words before it, none beyond."""
    tokenizer = training.build_tokenizer()
    corpus = training.Corpus(tokenizer, seed=3)
    num_found = 0
    for _ in range(50):
        made = corpus.sequence(composed=0.9)
        words = tokenizer.convert_ids_to_tokens(made.ids)
        assert len(made.ids) == len(made.weights) <= training.LENGTH
        for look in made.looks:
            assert all(0 <= target < look.position for target in look.targets)
            if look.layer != 1 or words[look.position] not in (*SHAPES, *COLOURS):
                continue
            for target in set(look.targets) - {0}:
                num_found += 1
                assert words[look.position] in words[target - 3 : target + 1]
    assert num_found > 100


def test_guidance_loss_is_the_mean_negative_log_mass(training):
    attention = torch.softmax(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)), -1)
    looks = [(1, training.Look(0, 2, 4, (0, 3))), (0, training.Look(0, 1, 2, (1,)))]
    expected = (
        -((attention[1, 2, 4, 0] + attention[1, 2, 4, 3] + 1e-4).log() + (attention[0, 1, 2, 1] + 1e-4).log()) / 2
    )
    torch.testing.assert_close(training.guidance_loss([attention], looks), expected)


@pytest.fixture(scope="module")
def language():
    folder = model_path("language")
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def share_right(language, *, told: bool) -> dict[str, float]:
    model, tokenizer = language
    rng, right = Random(2024), {}
    for task in TASKS:
        hits = []
        while len(hits) < 60:
            scene = sample_scene(rng)
            question = ask(rng, scene, task=task)
            text = f"USER {caption(scene, order=rng)} . " if told else "USER "
            ids = tokenizer(f"<s>{text}{question.text} ASSISTANT", return_tensors="pt").input_ids
            guess = model(ids).logits[0, -1].argmax()
            hits.append(tokenizer.decode(guess).strip() == question.answer)
        right[task] = sum(hits) / len(hits)
    return right


@torch.no_grad()
def test_the_shipped_language_model_reads_told_scenes_and_guesses_without(language):
    told, blind = share_right(language, told=True), share_right(language, told=False)
    assert min(told.values()) > 0.85
    assert sum(blind.values()) / len(TASKS) < 0.45


@torch.no_grad()
def test_colour_and_shape_can_be_read_from_the_shipped_towers_patches():
    """A linear probe on the four patches of each thing's place, tested on scenes it was not fitted on."""
    tower = CLIPVisionModel.from_pretrained(model_path("vision"), dtype=torch.float32).eval()
    rng, noise = Random(11), np.random.default_rng(11)
    scenes = [sample_scene(rng, pairs="seen") for _ in range(700)]
    pixels = np.stack([preprocess(draw_scene(s, noise), preprocessing="toyworld_96") for s in scenes])
    states = tower(pixel_values=torch.from_numpy(pixels), output_hidden_states=True).hidden_states[-2][:, 1:]
    rows, colours, shapes, is_test = [], [], [], []
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            corner = 12 * thing.row + 2 * thing.column
            rows.append(states[i, [corner, corner + 1, corner + 6, corner + 7]].flatten())
            colours.append(list(COLOURS).index(thing.colour))
            shapes.append(SHAPES.index(thing.shape))
            is_test.append(i >= 500)
    x, test = torch.stack(rows), torch.tensor(is_test)
    x = torch.cat([(x - x[~test].mean(0)) / x[~test].std(0), torch.ones(len(x), 1)], dim=1)
    for targets in (torch.tensor(colours), torch.tensor(shapes)):
        fit, wanted = x[~test], torch.nn.functional.one_hot(targets[~test]).float()
        weights = torch.linalg.solve(fit.T @ fit + 30.0 * torch.eye(x.shape[1]), fit.T @ wanted)
        assert ((x[test] @ weights).argmax(1) == targets[test]).float().mean() > 0.95


def test_both_models_fit_in_eight_megabytes():
    files = [file for name in ("language", "vision") for file in model_path(name).iterdir()]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl")]
