"""Draw the folders from their imports, floor above floor: `python docs/draw_folders.py` writes docs/folders.svg.

Floors are import-linter's, from pyproject.toml; a line stands for imports, a step thicker each time they double. A test
holds that the picture is today's.
"""

import ast
import tomllib
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "pipelines": ROOT / "pipelines",
    "memvp_train": ROOT / "packages/memvp-train/src/memvp_train",
    "memvp_core": ROOT / "packages/memvp-core/src/memvp_core",
    "memvp_data": ROOT / "packages/memvp-data/src/memvp_data",
}
COLOURS = {"pipelines": "#8250df", "memvp_train": "#0969da", "memvp_core": "#bc4c00", "memvp_data": "#1a7f37"}
# Left edge, top edge and width of each package's floors, in pixels; the heights follow from the number of floors.
PLACES = {
    "pipelines": (20, 40, 560),
    "memvp_train": (620, 40, 560),
    "memvp_core": (620, 330, 560),
    "memvp_data": (20, 520, 560),
}
BOX, FLOOR = 26, 50
WIDTH, HEIGHT = 1200, 950


def floors(package: str) -> list[list[str]]:
    """Names side by side, from the top floor down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [one["layers"] for one in contracts if one.get("containers") == [package]]
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def imports(package: str) -> Counter[tuple[str, str]]:
    """(folder, folder) inside the package -> number of import statements."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(SOURCES[package].rglob("*.py")):
        own = path.relative_to(SOURCES[package]).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update({(own, name.split(".")[1]) for name in names})
    return Counter({pair: count for pair, count in found.items() if pair[0] != pair[1]})


def boxes(package: str) -> dict[str, tuple[float, float, float]]:
    """Name -> left edge, top edge, width."""
    left, top, width = PLACES[package]
    found = {}
    for number, names in enumerate(floors(package)):
        slot = width / len(names)
        for place, name in enumerate(names):
            wide = min(slot - 8, 22 + 7.2 * len(name))
            found[name] = (left + slot * (place + 0.5) - wide / 2, top + FLOOR * number, wide)
    return found


def draw(package: str) -> list[str]:
    """The SVG elements of one package."""
    left, top, _ = PLACES[package]
    placed, colour = boxes(package), COLOURS[package]
    parts = [f'<text x="{left}" y="{top - 14}" fill="{colour}" font-weight="bold" font-size="15">{package}</text>']
    for (upper, lower), count in sorted(imports(package).items()):
        if upper in placed and lower in placed:
            (x, y, wide), (to_x, to_y, to_wide) = placed[upper], placed[lower]
            ends = f'x1="{x + wide / 2:.0f}" y1="{y + BOX:.0f}" x2="{to_x + to_wide / 2:.0f}" y2="{to_y:.0f}"'
            parts.append(f'<line {ends} stroke="{colour}" stroke-opacity="0.3" stroke-width="{count.bit_length()}"/>')
    for name, (x, y, wide) in placed.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{BOX}" rx="5" fill="#ffffff" stroke="{colour}"/>'
            f'<text x="{x + wide / 2:.0f}" y="{y + 17:.0f}" text-anchor="middle" font-size="12">{escape(name)}</text>'
        )
    return parts


def picture() -> str:
    """The whole picture as SVG."""
    parts = [part for package in SOURCES for part in draw(package)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *parts, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs/folders.svg").write_text(picture(), encoding="utf-8")
