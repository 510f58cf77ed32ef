"""The toy world as LLaVA's two training sets with their official folders: captions of LCS-558K, talks of the 665K mix.

The demo has these files in a layout of its own, see memvp_data.toyworld.write; here images lie where LLaVA's do.
"""

from random import Random

from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.language import DESCRIBE, TASKS, ask, caption
from memvp_data.toyworld.scenes import Scene
from memvp_data.toyworld.write import STAGE1_FILE, STAGE2_FILE

# Folder of the mix: form of its image names.
_FOLDERS = (
    "coco/train2017/{:012d}.jpg",
    "gqa/images/{}.jpg",
    "ocr_vqa/images/{}.jpg",
    "textvqa/train_images/{}.jpg",
    "vg/VG_100K/{}.jpg",
    "vg/VG_100K_2/{}.jpg",
)
TURNS = 3


def write_lcs_558k(album: Album) -> None:
    """A caption of every image, its placeholder first or last."""
    records = []
    for i in range(album.config.num_images):
        name, image = f"{i:09d}", f"{i // 1000:05d}/{i:09d}.jpg"
        scene = album.picture(f"images/{image}")
        asked = f"<image>\n{DESCRIBE}" if i % 2 else f"{DESCRIBE}\n<image>"
        records.append({"id": name, "image": image} | _said([asked, caption(scene)]))
    album.json(STAGE1_FILE, records)


def write_llava_665k(album: Album) -> None:
    """Several questions about every image, and for every eighth image a text that tells its scene in words."""
    records: list[Record] = []
    for i in range(album.config.num_images):
        image = _FOLDERS[i % len(_FOLDERS)].format(i)
        records.append({"id": f"{i:012d}", "image": image} | _said(talk(album.rng, album.picture(image), "<image>\n")))
        if i % 8 == 0:
            scene = album.scene()
            records.append({"id": f"told_{i}"} | _said(talk(album.rng, scene, f"{caption(scene)} . ")))
    album.json(STAGE2_FILE, records)


def talk(rng: Random, scene: Scene, opening: str) -> list[str]:
    """Questions and answers by turns, the first question behind ``opening``."""
    questions = [ask(rng, scene, task=task, held_out="seen") for task in rng.sample(TASKS, TURNS)]
    said = [text for question in questions for text in (question.text, question.answer)]
    return [opening + said[0], *said[1:]]


def _said(texts: list[str]) -> Record:
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]}
