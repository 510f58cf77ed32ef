"""What a version in the model registry is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class NewVersion:
    """A version to be."""

    name: str
    """of the registered model"""
    model_file: Path
    """models-from-code file, run when the model is loaded"""
    artifacts: Mapping[str, Path]
    """name -> file or folder that is copied into the version"""
    requirements: tuple[str, ...]
    """packages that it needs where it is loaded"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """kept inside the model"""
    tags: Mapping[str, str] = field(default_factory=dict)
    """shown beside the version"""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """its scores"""
    description: str = ""
    """of the version, Markdown"""
