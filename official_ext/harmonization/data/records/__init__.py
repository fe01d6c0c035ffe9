"""TFRecord shards: writing, reading, checking and downloading them."""
