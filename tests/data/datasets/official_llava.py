"""MME, POPE and the two training sets of LLaVA in their official layout."""

from pathlib import Path
from typing import Any

from tests.data.datasets.official_coco import coco_name
from tests.data.datasets.put_files import put_images, put_json, put_lines

Record = dict[str, Any]


def write_mme(root: Path) -> None:
    flat = (
        "code_reasoning color commonsense_reasoning count existence numerical_calculation OCR position text_translation"
    )
    for task in flat.split():
        _put_mme(root / task, root / task, stem="0001", suffix=".jpg" if task == "OCR" else ".png")
    for task in ("artwork", "celebrity", "landmark", "posters", "scene"):
        _put_mme(root / task / "questions_answers_YN", root / task / "images", stem="tt0048", suffix=".jpg")


def _put_mme(texts: Path, images: Path, *, stem: str, suffix: str) -> None:
    texts.mkdir(parents=True, exist_ok=True)
    blank = "\n" if suffix == ".png" else ""
    asked = f"Is it red?  Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo{blank}"
    (texts / f"{stem}.txt").write_text(asked, encoding="utf-8")
    put_images(images, f"{stem}{suffix}")


def write_pope(root: Path) -> None:
    for part, count in (("adversarial", 6), ("popular", 6), ("random", 4)):
        lines = [
            {
                "question_id": n + 1,
                "image": "COCO_val2014_000000000042.jpg",
                "text": f"Is there a lamp in the {'imange' if n == 2 else 'image'}?",
                "label": ("yes", "no")[n % 2],
            }
            for n in range(count)
        ]
        put_lines(root / f"coco_pope_{part}.json", lines)
    put_images(root, coco_name(42, "val2014"))


def write_lcs_558k(root: Path) -> None:
    records = [
        talk("000000001", "Describe the picture briefly.\n<image>", "a red bus", image="00000/000000001.jpg"),
        talk("000000002", "<image>\nWhat is this?", "a street", image="00000/000000002.jpg"),
    ]
    put_json(root / "blip_laion_cc_sbu_558k.json", records)
    put_images(root / "images", "00000/000000001.jpg", "00000/000000002.jpg")


MIX_IMAGES = (
    "coco/train2017/000000000009.jpg",
    "vg/VG_100K/1.jpg",
    "vg/VG_100K_2/2.jpg",
    "ocr_vqa/images/0140.jpg",
    "gqa/images/2375429.jpg",
    "textvqa/train_images/0a1b.jpg",
)


def write_llava_665k(root: Path) -> None:
    """Each image root, a text-only record, two rounds, a leading gpt turn, an int id, and ids that repeat."""
    records = [talk("7", "<image>\nWhat?", "A cat.", "Where?", "There.", image=name) for name in MIX_IMAGES]
    records[1]["id"] = 8
    records[2]["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    records[3]["conversations"][0]["value"] = "What?\n<image>"
    records.append(talk("wgByO4Y_0", "Write <image> in HTML", "<img>") | {"model": ""})
    put_json(root / "llava_v1_5_mix665k.json", records)
    put_images(root, *MIX_IMAGES)


def talk(name: str, *said: str, image: str | None = None) -> Record:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
    return {"id": name} | ({"image": image} if image else {}) | {"conversations": turns}
