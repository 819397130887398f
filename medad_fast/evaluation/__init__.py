"""Honest figures: exact ranking metrics with patient-clustered intervals."""
