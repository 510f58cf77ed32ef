"""The toy world in the official format of every benchmark: pictures with questions whose answers are known.

table: the formats, and the function that writes one
album: the folder that a format is written to
questions: wrong answers, options and claims
coco, gqa, llava, mmbench, mme, pope, scienceqa, video, vl_t5, vqav2: an official format each
own_files: files of your own
"""

from memvp_data.toyworld.formats.album import FormatConfig
from memvp_data.toyworld.formats.table import FORMATS, write_format

__all__ = ["FORMATS", "FormatConfig", "write_format"]
