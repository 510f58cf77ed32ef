"""The table of formats the toy world writes itself in, and the one function that writes them: a folder whole or none.

Names are those of `memvp_data.datasets.table`; "messages" and "questions" are files of your own.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from memvp_data.toyworld.formats import coco, gqa, llava, mmbench, mme, own_files, pope, scienceqa, video, vl_t5, vqav2
from memvp_data.toyworld.formats.album import Album, FormatConfig

FORMATS: dict[str, Callable[[Album], object]] = {
    "vqav2": vqav2.write_vqav2,
    "gqa": gqa.write_gqa,
    "vqav2_vl_t5": vl_t5.write_vqav2_of_vl_t5,
    "gqa_vl_t5": vl_t5.write_gqa_of_vl_t5,
    "coco": coco.write_coco,
    "scienceqa": scienceqa.write_scienceqa,
    "sqa_i": scienceqa.write_scienceqa,
    "lcs_558k": llava.write_lcs_558k,
    "llava_665k": llava.write_llava_665k,
    "tvqa": video.write_tvqa,
    "how2qa": video.write_how2qa,
    "mme": mme.write_mme,
    "mmbench": mmbench.write_mmbench,
    "pope": pope.write_pope,
    "messages": own_files.write_messages,
    "questions": own_files.write_questions,
}


def write_format(name: str, folder: Path | str, config: FormatConfig | None = None) -> Path:
    """Write the toy world as the official files of a dataset. The folder must be new or empty; nothing is replaced."""
    if name not in FORMATS:
        raise ValueError(f"the toy world has no format {name!r}; known: {', '.join(FORMATS)}")
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one, nothing is ever replaced")
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    album = Album(building, config or FormatConfig(), name=name)
    FORMATS[name](album)
    album.finish()
    os.replace(building, folder)
    return folder
