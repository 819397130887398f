"""Anomaly detection methods, all of one shape."""
