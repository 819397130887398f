"""Files to images, and folders to data sets."""
