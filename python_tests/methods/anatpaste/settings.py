"""AnatPaste small enough to train in a test."""

SMALL = {"width": 4, "projection_dim": 8, "epoch_steps": None, "batch_size": 4}
# Positions of ResNet-18 see 43 pixels or more around them, and 80 steps are too few for the density
# of its embeddings.
LESION = {"image_size": 64, "map_layers": (1,), "optimizer": "adam", "image_score": "topk"}
