"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint cannot be written, is of another version, or is of another run."""


class DamageError(CheckpointError):
    """A checkpoint is not as it was written: a file is missing, cut or changed."""
