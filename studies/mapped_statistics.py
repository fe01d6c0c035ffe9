# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures how batch statistics of few images change saliency maps.

  python -m studies.mapped_statistics --output=runs/mapped_statistics.json

With `batch_norm: mapped`, the maps of the M images with a map of a replica are
computed with the batch statistics of these M images. A ResNet-10 is trained for
a few steps on the embedded digits. The gradients of M images, normalized
together, are then compared with the gradients of the same images among all 512,
whose statistics are close to those of the data: by relative L2 distance, and by
the correlation of their maps (mean magnitude). Results are means over samples
of M images, one row per seed.
"""

import os

from absl import app
from absl import flags
import numpy as np
from official.core import exp_factory
from official.core import task_factory
from sklearn import datasets
import tensorflow as tf
import tf_keras

from official_ext.harmonization import files
from official_ext.harmonization import registry_imports
from official_ext.harmonization.data.records import digits
from official_ext.harmonization.ops import saliency

_STEPS = flags.DEFINE_integer(
  'steps', 150, 'Training steps, each of 64 images.'
)
_DRAWS = flags.DEFINE_integer('draws', 8, 'Samples of M images.')
_SEEDS = flags.DEFINE_list(
  'seeds', ['0', '1'], 'Seeds of weights, images and samples.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the results.')

_IMAGES, _SIZE, _BATCH = 512, 40, 64
_MAPPED = (2, 4, 8, 13, 16, 24, 32, 48, 64, 128, 256)


def _images(rng):
  """Returns standardized images of digits on clutter, and their labels."""
  ink, labels = datasets.load_digits(return_X_y=True)
  chosen = rng.choice(len(ink), _IMAGES, replace=False)
  composed = [
    digits.compose(ink[i].reshape(8, 8), int(labels[i]), rng)[0] for i in chosen
  ]
  images = tf.image.resize(np.stack(composed), [_SIZE, _SIZE])
  return tf.image.per_image_standardization(images), labels[chosen]


def _trained(images, labels, rng):
  """Trains a small ResNet for a few steps of cross-entropy."""
  config = exp_factory.get_exp_config('resnet_imagenet').task
  config.override(
    {
      'model': {
        'num_classes': digits.NUM_CLASSES,
        'input_size': [_SIZE, _SIZE, 3],
        'backbone': {'resnet': {'model_id': 10, 'depth_multiplier': 0.5}},
      }
    }
  )
  model = task_factory.get_task(config).build_model()
  optimizer = tf_keras.optimizers.SGD(0.05, 0.9)

  @tf.function
  def step(images, labels):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(
        tf_keras.losses.sparse_categorical_crossentropy(
          labels, model(images, training=True), from_logits=True
        )
      )
    variables = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

  for _ in range(_STEPS.value):
    rows = rng.choice(_IMAGES, _BATCH, replace=False)
    step(tf.gather(images, rows), tf.gather(labels, rows))
  return model


def _gradients(model, images, labels):
  """Returns the gradients of the labels' logits, normalized together."""
  return saliency.logits_and_gradients(
    model, images, tf.one_hot(labels, digits.NUM_CLASSES), training=True
  )[1].numpy()


def _maps(gradients):
  maps = np.abs(gradients).mean(-1).reshape(len(gradients), -1)
  maps = maps - maps.mean(1, keepdims=True)
  return maps / np.linalg.norm(maps, axis=1, keepdims=True)


def _measure(seed):
  """Yields the distance and the correlation for each M."""
  rng = np.random.default_rng(seed)
  tf_keras.utils.set_random_seed(seed)
  images, labels = _images(rng)
  model = _trained(images, labels, rng)
  expected = _gradients(model, images, labels)
  for mapped in _MAPPED:
    distances, correlations = [], []
    for _ in range(_DRAWS.value):
      rows = rng.choice(_IMAGES, mapped, replace=False)
      found = _gradients(model, tf.gather(images, rows), labels[rows])
      distances.append(
        np.linalg.norm(found - expected[rows]) / np.linalg.norm(expected[rows])
      )
      correlations.append((_maps(found) * _maps(expected[rows])).sum(1).mean())
    yield {
      'seed': seed,
      'mapped': mapped,
      'distance': float(np.mean(distances)),
      'correlation': float(np.mean(correlations)),
    }


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  results = []
  print('| seed | M | relative distance of gradients | correlation of maps |')
  print('|---|---|---|---|')
  for seed in _SEEDS.value:
    for result in _measure(int(seed)):
      results.append(result)
      print(
        '| {seed} | {mapped} | {distance:.3f} | {correlation:.3f} |'.format(
          **result
        )
      )
  if _OUTPUT.value:
    os.makedirs(os.path.dirname(_OUTPUT.value) or '.', exist_ok=True)
    files.write_json(
      _OUTPUT.value,
      {'steps': _STEPS.value, 'draws': _DRAWS.value, 'results': results},
      indent=1,
    )


if __name__ == '__main__':
  app.run(main)
