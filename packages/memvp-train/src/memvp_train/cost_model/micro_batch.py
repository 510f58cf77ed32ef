"""The sizes of a micro-batch, and one of these sizes to trace."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from memvp_data.dataloader.batch import Batch
from memvp_data.text import IGNORED


@dataclass(frozen=True)
class StepShape:
    """The sizes of a micro-batch."""

    num_sequences: int
    """Sequences (B)."""
    num_tokens: int
    """Text tokens of each (T), learnt ones among them."""
    num_labels: int
    """Learnt tokens of each; an encoder-decoder has them in its decoder."""
    num_rows: int
    """Rows of an image (P); every sequence has its own."""
    width: int
    """Width of a row (V)."""
    image_side: int | None = None
    """Pixels per side, where a live tower looks at the images; None: their features are stored."""

    def batch(self, *, device: torch.device | str, is_encoder_decoder: bool = False) -> Batch:
        """A micro-batch of these sizes; the last sequence is one token shorter than the others."""
        num_read = self.num_tokens - self.num_labels if is_encoder_decoder else self.num_tokens
        ids = torch.ones(self.num_sequences, num_read, dtype=torch.long, device=device)
        mask = torch.ones_like(ids)
        mask[-1, -1] = 0
        side = self.image_side
        num_stored = 0 if side else self.num_sequences
        pixels = torch.zeros(self.num_sequences, 3, side, side, device=device) if side else None
        labels = torch.ones(self.num_sequences, self.num_labels, dtype=torch.long, device=device)
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            labels=labels
            if is_encoder_decoder
            else functional.pad(labels, (1, num_read - self.num_labels - 1), value=IGNORED),
            visual_features=torch.zeros(num_stored, self.num_rows, self.width, device=device),
            image_index=torch.arange(self.num_sequences),
            num_global_labels=self.num_sequences * self.num_labels,
            sample_ids=("",) * self.num_sequences,
            pixel_values=pixels,
            decoder_input_ids=labels if is_encoder_decoder else None,
        )
