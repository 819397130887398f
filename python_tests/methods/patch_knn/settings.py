"""Nearest normals small enough to fit in a test."""

SMALL = {"width": 8, "weights": "random", "layers": (1,), "bank_size": 512}
# Of 32 pixels each position of a ResNet sees all.
LESION = {"image_size": 96}
