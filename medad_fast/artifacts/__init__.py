"""What lies on disk between two verbs, one class for each folder."""
