"""Images: bytes from outside decoded safely, and the one preprocessing of each vision tower.

decode: bytes from outside, decoded safely
colours: upright, 8 bits a channel, on white
preprocessing: the one preprocessing of each vision tower
pixels: pixels by image id, for a tower that trains along
"""

from memvp_data.images.decode import (
    PREPROCESSING,
    ImageError,
    image_members,
    image_num_bytes,
    image_records,
    load_image,
    preprocess,
)

__all__ = [
    "PREPROCESSING",
    "ImageError",
    "image_members",
    "image_num_bytes",
    "image_records",
    "load_image",
    "preprocess",
]
