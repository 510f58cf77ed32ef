"""Train the toy world's vision tower from scratch: `python pipelines/pretraining/train_vision.py --out DIR`.

A CLIP-shaped ViT of 0.8M parameters learns from drawn images and their captions, and from nothing else; no question is
ever asked of it. Each caption is cut into its phrases ("top-left small red circle"); the best-matching patches of an
image must score high with its own phrases and low with every other phrase of the batch (sigmoid loss with true
multi-labels). That is contrastive image-text training, but not CLIP's own objective: CLIP's whole-caption loss leaves
the patches of so small a tower as blind to shape as an untrained one. No held-out pair is ever drawn.
"""

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from mixed_precision import MixedPrecision
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from memvp_data.images import preprocess
from memvp_data.toyworld.draw import IMAGE_SIZE, draw_scene
from memvp_data.toyworld.language import phrase, vocabulary
from memvp_data.toyworld.scenes import COLOURS, SHAPES, SIZES, sample_scene

WIDTH = 128


def build_tower() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=16,
        projection_dim=WIDTH,
        hidden_act="gelu",
        attention_dropout=0.0,
    )
    config._attn_implementation = "eager"
    return CLIPVisionModel(config)


class PhraseMatching(nn.Module):
    """The tower, a one-layer text tower for phrases of four words, and the score between them."""

    def __init__(self, tower: CLIPVisionModel):
        super().__init__()
        self.tower = tower
        self.words = nn.Embedding(len(vocabulary()), WIDTH)
        self.places = nn.Parameter(torch.randn(4, WIDTH) * 0.02)
        self.text = nn.TransformerEncoderLayer(WIDTH, 4, 256, dropout=0.0, activation="gelu", batch_first=True)
        self.text_out = nn.Linear(WIDTH, WIDTH)
        self.image_out = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def forward(self, pixels: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """Scores (images, phrases) of pixels (B, 3, S, S) against word ids (P, 4)."""
        hidden = self.tower(pixel_values=pixels).last_hidden_state[:, 1:]
        patches = F.normalize(self.image_out(self.tower.post_layernorm(hidden)), dim=-1)
        words = self.text(self.words(phrases) + self.places)
        queries = F.normalize(self.text_out(words.mean(1)), dim=-1)
        cosine = (patches.flatten(0, 1) @ queries.T).float().view(*patches.shape[:2], -1)
        best = torch.logsumexp(cosine * 20, dim=1) / 20
        return self.scale.float() * best + self.bias.float()


def draw_set(count: int, *, seed: int) -> tuple[torch.Tensor, list]:
    """``count`` preprocessed images (fp16 to save memory) and their scenes."""
    rng, noise = Random(seed), np.random.default_rng(seed)
    scenes = [sample_scene(rng, pairs="seen") for _ in range(count)]
    pixels = torch.empty(count, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float16)
    for i, scene in enumerate(scenes):
        pixels[i] = torch.from_numpy(preprocess(draw_scene(scene, noise), preprocessing="toyworld_96"))
    return pixels, scenes


def batch_targets(scenes: list, word_ids: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct phrases of a batch as word ids (P, 4) and which image shows which (B, P)."""
    told = [{phrase(thing) for thing in scene.things} for scene in scenes]
    phrases = sorted(set().union(*told))
    labels = torch.tensor([[float(p in own) for p in phrases] for own in told])
    return torch.tensor([[word_ids[word] for word in p.split()] for p in phrases]), labels


def matching_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sigmoid loss; positives and negatives each divided by the number of positives."""
    return -(F.logsigmoid(torch.where(labels > 0, scores, -scores))).sum() / labels.sum()


@torch.no_grad()
def tower_states(tower: CLIPVisionModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Patch states (N, 36, d): the last layer after the final norm, the last layer, and the one before."""
    parts: dict[str, list[torch.Tensor]] = {"-1 normed": [], "-1": [], "-2": []}
    for chunk in pixels.split(256):
        states = tower(pixel_values=chunk.float(), output_hidden_states=True).hidden_states
        parts["-1 normed"].append(tower.post_layernorm(states[-1])[:, 1:])
        parts["-1"].append(states[-1][:, 1:])
        parts["-2"].append(states[-2][:, 1:])
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def probe(states: torch.Tensor, scenes: list, *, test_from: int) -> dict[str, float]:
    """Accuracy of linear probes on the four patches of each thing's place, tested from image ``test_from`` on."""
    rows, targets, is_test = [], [], []
    for i, scene in enumerate(scenes):
        for t in scene.things:
            corner = 12 * t.row + 2 * t.column
            rows.append(states[i, [corner, corner + 1, corner + 6, corner + 7]].flatten())
            targets.append((list(COLOURS).index(t.colour), SHAPES.index(t.shape), SIZES.index(t.size)))
            is_test.append(i >= test_from)
    x, y, test = torch.stack(rows).float(), torch.tensor(targets), torch.tensor(is_test)
    x = torch.cat([(x - x[~test].mean(0)) / x[~test].std(0), torch.ones(len(x), 1)], dim=1)
    found = {}
    for k, name in enumerate(("colour", "shape", "size")):
        one_hot = F.one_hot(y[~test, k]).float()
        gram = x[~test].T @ x[~test] + 10.0 * torch.eye(x.shape[1])
        weights = torch.linalg.solve(gram, x[~test].T @ one_hot)
        found[name] = ((x[test] @ weights).argmax(1) == y[test, k]).float().mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--images", type=int, default=32000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.time()
    pixels, scenes = draw_set(args.images, seed=args.seed + 1)
    probe_pixels, probe_scenes = draw_set(2000, seed=args.seed + 2)
    print(json.dumps({"drawn": args.images, "seconds": round(time.time() - started)}), flush=True)
    model = PhraseMatching(build_tower())
    training = MixedPrecision(model, lr=args.learning_rate, weight_decay=0.02)
    word_ids = {word: i for i, word in enumerate(vocabulary())}
    order, _rng = np.random.default_rng(args.seed), 0
    losses: list[float] = []
    for step in range(args.steps):
        chosen = order.integers(0, args.images, args.batch)
        phrases, labels = batch_targets([scenes[i] for i in chosen], word_ids)
        scores = model(pixels[chosen].bfloat16(), phrases)
        loss = matching_loss(scores, labels)
        loss.backward()
        progress = step / args.steps
        training.step(scale=min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress))))
        losses.append(loss.item())
        if step % 100 == 99:
            row = {"step": step + 1, "seconds": round(time.time() - started), "loss": sum(losses[-100:]) / 100}
            print(json.dumps(row), flush=True)
    tower = training.full_precision(lambda: PhraseMatching(build_tower())).tower.eval()
    tower.half().save_pretrained(args.out)
    states = tower_states(tower.float(), probe_pixels)
    print(json.dumps({name: probe(v, probe_scenes, test_from=1500) for name, v in states.items()}))


if __name__ == "__main__":
    main()
