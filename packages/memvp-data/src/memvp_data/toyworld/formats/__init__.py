"""The toy world in the official format of every benchmark: pictures with questions whose answers are known."""

from memvp_data.toyworld.formats.album import FormatConfig
from memvp_data.toyworld.formats.table import FORMATS, write_format

__all__ = ["FORMATS", "FormatConfig", "write_format"]
