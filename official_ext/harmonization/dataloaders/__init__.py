"""From records to batches of images, labels and human maps."""
