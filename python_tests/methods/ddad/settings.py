"""DDAD small enough to train in a test."""

SMALL = {
    "width": 4,
    "members": 2,
    "hidden_dim": 32,
    "batch_size": 4,
    "refinement_width": 8,
    "refinement_batch_size": 4,
    "refinement_epochs": 10,
    "refinement_learning_rate": 0.003,
}
# Discs differ too little for foreign patches to teach the refinement anything.
LESION = {"score": "A_rec"}
SLOW_LEARNER = True
