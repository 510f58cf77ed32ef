"""Small folders in the exact official layout of each benchmark, made by hand to exercise every branch of its reader.

`write_<dataset>(root)` writes files and images. Texts and numbers are made up; keys, nesting, names, separators and
quirks (two spaces, trailing blank lines, images by reference, "NaN-NaN") are those of the official files.
"""

from collections.abc import Callable
from pathlib import Path

from tests.data.datasets.official_choices import write_how2qa, write_mmbench, write_scienceqa, write_sqa_i, write_tvqa
from tests.data.datasets.official_coco import write_coco, write_gqa, write_gqa_vl_t5, write_vqav2, write_vqav2_vl_t5
from tests.data.datasets.official_llava import write_lcs_558k, write_llava_665k, write_mme, write_pope

WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": write_vqav2,
    "gqa": write_gqa,
    "vqav2_vl_t5": write_vqav2_vl_t5,
    "gqa_vl_t5": write_gqa_vl_t5,
    "coco": write_coco,
    "scienceqa": write_scienceqa,
    "sqa_i": write_sqa_i,
    "lcs_558k": write_lcs_558k,
    "llava_665k": write_llava_665k,
    "tvqa": write_tvqa,
    "how2qa": write_how2qa,
    "mme": write_mme,
    "mmbench": write_mmbench,
    "pope": write_pope,
}
