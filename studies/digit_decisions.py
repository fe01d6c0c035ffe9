"""What a trained network decides by: what is left when its cues are changed.

Maps can improve while decisions stay where they were. So networks are also
shown the images of `val` with another decoy, and with nothing but the top of
the human map, as in the paper's psychophysics (Fel et al., NeurIPS 2022).
"""

import functools

import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.data import make_digits_clickme
from official_ext.harmonization.data.stimuli import reveal

# Percent of the pixels that are revealed: about 8 of them are ink. All of
# them are the whole image in grey, without the decoy's colour.
LEVELS = (2, 5, 10, 20, 40, 100)
_BATCH = 100


@functools.lru_cache
def _records(pattern: str, size: int):
  """All images (N, size, size, 3), ink maps and labels of some records."""
  source = labelled_images.Dataset(pattern, blur=False)
  batches = list(
    labelled_images.batches(
      source,
      (size, size),
      (size, size),
      make_digits_clickme.NUM_CLASSES,
      _BATCH,
    )
  )
  return tuple(
    np.concatenate([getattr(b, field) for b in batches])
    for field in ('images', 'maps', 'labels')
  )


@functools.lru_cache
def _stimuli(pattern: str, size: int):
  """Labels, and images at each level: grey, on their own scrambled phases."""
  images, maps, labels = _records(pattern, size)
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
  """Part of images (N, H, W, 3), RGB 0..255, that are given their label."""
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
  """Measures a network's decisions.

  Args:
    run: of the embedded digits.
    val: pattern of the records whose ink is revealed.
    swapped: pattern of the same images with decoys of another class.

  Returns:
    Accuracies: 'swapped_accuracy', and 'revealed_<percent>' for `LEVELS`.
  """
  run.use_averages()
  size = run.config.task.model.input_size[0]
  images, _, labels = _records(swapped, size)
  scores = {'swapped_accuracy': _accuracy(run.model, images, labels)}
  labels, shown = _stimuli(val, size)
  for level, pictures in shown.items():
    scores[f'revealed_{level}'] = _accuracy(run.model, pictures, labels)
  return scores
