# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures which cues a trained network uses, by changing the cues.

Maps can improve while decisions do not change. Therefore networks also classify
the images of `val` with a different decoy, and images that reveal only the top
of the human map, as in the paper's psychophysics (Fel et al., NeurIPS 2022).
"""

import functools

import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.data.records import digits
from official_ext.harmonization.data.stimuli import reveal

# Percent of the pixels that are revealed; about 8 % are ink. At 100 % the whole
# image is shown in grey, without the color of the decoy.
LEVELS = (2, 5, 10, 20, 40, 100)
_BATCH = 100


@functools.lru_cache
def records(pattern: str, size: int):
  """Reads the records of a split of the digits.

  Args:
    pattern: glob pattern of the records.
    size: height and width in pixels.

  Returns:
    Images, float32 (N, size, size, 3) in 0..255, ink maps (N, size, size), and
    labels (N,).
  """
  source = labelled_images.Dataset(pattern, blur=False)
  batches = list(
    labelled_images.batches(
      source,
      (size, size),
      (size, size),
      digits.NUM_CLASSES,
      _BATCH,
    )
  )
  return tuple(
    np.concatenate([getattr(b, field) for b in batches])
    for field in ('images', 'maps', 'labels')
  )


@functools.lru_cache
def stimuli(pattern: str, size: int):
  """Makes grey images that reveal the most inked pixels.

  Args:
    pattern: as in `records`.
    size: as in `records`.

  Returns:
    Labels (N,), and images (N, size, size, 3) by level, for `LEVELS`.
  """
  images, maps, labels = records(pattern, size)
  rng = np.random.default_rng(0)
  shown = {level: [] for level in LEVELS}
  for image, ink in zip(images, maps):
    grey = reveal.grey(image)
    ground = reveal.scramble_phase(grey, rng)
    order = reveal.growth_order(np.maximum(ink, 0.0), rng)
    for level in LEVELS:
      picture = reveal.compose(
        grey, ground, order, reveal.revealed_pixels(level, grey.size)
      )
      shown[level].append(np.repeat(picture[..., np.newaxis], 3, axis=-1))
  return labels, {
    level: np.stack(pictures) for level, pictures in shown.items()
  }


def _accuracy(model, images, labels) -> float:
  """Returns the accuracy on images (N, H, W, 3), RGB in 0..255."""
  found = []
  for start in range(0, len(images), _BATCH):
    batch = preprocess_ops.normalize_image(
      tf.cast(images[start : start + _BATCH], tf.float32),
      preprocess_ops.MEAN_RGB,
      preprocess_ops.STDDEV_RGB,
    )
    found.append(model(batch, training=False).numpy().argmax(-1))
  return float(np.mean(np.concatenate(found) == labels))


def measure(run: runs.Run, val: str, swapped: str) -> dict[str, float]:
  """Measures accuracy under changed cues.

  Args:
    run: a run trained on the embedded digits.
    val: glob pattern of the records whose ink is revealed.
    swapped: glob pattern of the same images with decoys of another class.

  Returns:
    Accuracies named 'swapped_accuracy' and, for `LEVELS`, 'revealed_<percent>'.
  """
  run.use_averages()
  size = run.config.task.model.input_size[0]
  images, _, labels = records(swapped, size)
  scores = {'swapped_accuracy': _accuracy(run.model, images, labels)}
  labels, shown = stimuli(val, size)
  for level, pictures in shown.items():
    scores[f'revealed_{level}'] = _accuracy(run.model, pictures, labels)
  return scores
