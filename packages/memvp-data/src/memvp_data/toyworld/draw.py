"""Scenes to pixels: antialiased shapes on a tinted, noisy background, jittered in place, size, angle and colour.

Every thing is drawn three times too large and box-reduced. Place, radius, rotation, colour and background vary and
every pixel carries noise, so that no single pixel tells an attribute.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from memvp_data.toyworld.scenes import COLOURS, Scene, Thing

IMAGE_SIZE = 96
"""Pixels of a side; a place of the 3 x 3 grid is 32 pixels wide."""
_OVERSAMPLING = 3
_CELL = IMAGE_SIZE // 3
_RADIUS = {"small": (7.3, 8.7), "big": (11.5, 13.0)}
_JITTER, _TURN, _COLOUR_SHIFT, _NOISE = 3.0, 0.25, 16.0, 12.0


def draw_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A 96 x 96 RGB picture of ``scene``; all variation comes from ``rng``."""
    side = IMAGE_SIZE * _OVERSAMPLING
    grey, tint = rng.uniform(20, 105), rng.uniform(-12, 12, 3)
    background = tuple(int(v) for v in np.clip(grey + tint, 0, 255))
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _draw_thing(pen, thing, rng)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float32)
    pixels = pixels + rng.normal(0, _NOISE, pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, rng: np.random.Generator) -> None:
    jitter = rng.uniform(-_JITTER, _JITTER, 2)
    x = (thing.column + 0.5) * _CELL + jitter[0]
    y = (thing.row + 0.5) * _CELL + jitter[1]
    radius = rng.uniform(*_RADIUS[thing.size])
    colour = np.clip(np.array(COLOURS[thing.colour]) + rng.uniform(-_COLOUR_SHIFT, _COLOUR_SHIFT, 3), 0, 255)
    fill = tuple(int(v) for v in colour)
    if thing.shape == "circle":
        box = [v * _OVERSAMPLING for v in (x - radius, y - radius, x + radius, y + radius)]
        pen.ellipse(box, fill=fill)
        return
    turn = rng.uniform(-_TURN, _TURN)
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos)) for u, v in _OUTLINES[thing.shape]]
    pen.polygon([(a * _OVERSAMPLING, b * _OVERSAMPLING) for a, b in corners], fill=fill)


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    lengths = [1.1 if k % 2 == 0 else 0.45 for k in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(lengths, angles, strict=True)]


def _cross(arm: float = 0.33) -> list[tuple[float, float]]:
    a = arm
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


_OUTLINES = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.05), (0.98, 0.75), (-0.98, 0.75)],
    "cross": _cross(),
    "star": _star(),
}
"""Corners in units of the radius, the thing upright, y down."""
