"""The toy world as TVQA and How2QA: clips of two shots, a question about one of them, features and frames.

A frame is drawn every 1.5 seconds, the scene of its shot each time with fresh jitter and noise. Its feature is its own
pixels (13 x 13 x 3, filled up to 512): no model is needed, and what the frame shows is in it. The frames lie in
frames/<tv or how2>/<clip>/ for a model of your own.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memvp_data.datasets.video import HOW2QA, SPLITS, TVQA, Layout
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.questions import exactly, options
from memvp_data.toyworld.language import DESCRIBE
from memvp_data.toyworld.scenes import Scene

SECONDS_PER_FRAME = 1.5
_SIDE, _WIDTH = 13, 512
_LONG = 64  # frames of the second shot of the first clip, which is so longer than readers take
# TVQA's abbreviations of its shows, as they stand in front of a clip's name.
SHOWS = {
    "": "The Big Bang Theory",
    "friends_": "Friends",
    "met_": "How I Met You Mother",
    "grey_": "Grey's Anatomy",
    "house_": "House M.D.",
    "castle_": "Castle",
}


def write_tvqa(album: Album) -> None:
    """Five choices and a show; one question of test_public says "NaN-NaN" instead of when."""
    _write(album, TVQA)


def write_how2qa(album: Album) -> None:
    """Four choices and no show; clips are named by numbers."""
    _write(album, HOW2QA)


def frames_folder(layout: Layout) -> str:
    """Where the pictures of the clips lie: "frames/tv"."""
    return f"frames/{layout.frames.split('/')[1]}"


def _write(album: Album, layout: Layout) -> None:
    subtitles: list[Record] = []
    for split in SPLITS:
        records = []
        for _ in range(album.config.num_images if split == "train" else album.config.num_test_images):
            named = _named(len(subtitles), layout)
            records.append(_question(album, layout, named["vid_name"], is_long=not subtitles) | named)
            subtitles.append({"vid_name": named["vid_name"], "sub": _spoken(len(subtitles))})
        album.lines(layout.questions.format(split=split), _as_published(records, split=split, layout=layout))
    album.lines(layout.subtitles, subtitles)


def _named(number: int, layout: Layout) -> Record:
    if layout is not TVQA:
        return {"qid": number, "vid_name": str(1000 + number)}
    show = list(SHOWS)[number % len(SHOWS)]
    clip = f"{show}s01e{number // 100 + 1:02d}_seg02_clip_{number % 100:02d}"
    return {"qid": number, "vid_name": clip, "show_name": SHOWS[show]}


def _question(album: Album, layout: Layout, clip: str, *, is_long: bool) -> Record:
    """Draw a clip and ask about one of its shots."""
    rng, shots = album.rng, (album.scene(), album.scene())
    lengths = (rng.randint(2, 5), _LONG if is_long else rng.randint(2, 5))
    _draw(album, layout, clip, [scene for scene, length in zip(shots, lengths, strict=True) for _ in range(length)])
    chosen = rng.randrange(2)
    start, stop = ((0, lengths[0]), (lengths[0], sum(lengths)))[chosen]
    question = exactly(rng, shots[chosen], tasks=("colour", "shape"))
    choices = options(rng, question, most=layout.num_choices)
    asked = {"answer_idx": choices.index(question.answer), "q": question.text}
    when = {"ts": f"{start * SECONDS_PER_FRAME}-{stop * SECONDS_PER_FRAME}"}
    return {f"a{n}": choice for n, choice in enumerate(choices)} | asked | when


def _draw(album: Album, layout: Layout, clip: str, scenes: list[Scene]) -> None:
    """The frames as pictures, and their features as VALUE's .npz."""
    features = []
    for number, scene in enumerate(scenes, start=1):
        name = f"{frames_folder(layout)}/{clip}/{number:05d}.jpg"
        pixels = album.pixels(name, scene)
        album.write(name, pixels)
        features.append(_feature(pixels))
    file = io.BytesIO()
    np.savez(file, features=np.stack(features))
    album.write(f"{layout.frames}/{clip}.npz", file.getvalue())


def _feature(picture: bytes) -> NDArray[np.float16]:
    small = Image.open(io.BytesIO(picture)).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    flat = np.asarray(small, dtype=np.float16).reshape(-1) / 255
    return np.pad(flat, (0, _WIDTH - len(flat))).astype(np.float16)


def _spoken(number: int) -> list[Record]:
    """One line in two clips of three, none in the third."""
    return [] if number % 3 == 2 else [{"text": f" {DESCRIBE} ", "start": 0.0, "end": SECONDS_PER_FRAME}]


def _as_published(records: list[Record], *, split: str, layout: Layout) -> list[Record]:
    """Without the answers of the test part, whose last question of TVQA does not say when."""
    if not split.startswith("test"):
        return records
    hidden = [{name: value for name, value in record.items() if name != "answer_idx"} for record in records]
    return [*hidden[:-1], hidden[-1] | ({"ts": "NaN-NaN"} if layout is TVQA else {})]
