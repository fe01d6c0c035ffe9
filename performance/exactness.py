# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures the numerical error of the gradient of the harmonized loss.

  python -m performance.exactness --output=runs/benchmarks/exactness.json

For each network, the gradient of cross-entropy plus harmonization loss, in
float32 and bfloat16, in graph mode and under XLA, is compared with the gradient
of the same network in float64, by relative L2 distance over all trainable
variables. The same distance for cross-entropy without harmonization shows the
error that comes from the dtype alone.
"""

import os

from absl import app
from absl import flags
from official.core import exp_factory
from official.core import task_factory
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization import registry_imports
from official_ext.harmonization.losses import harmonization
from official_ext.harmonization.ops import saliency

_MODELS = {
  'resnet50': {'type': 'resnet', 'resnet': {'model_id': 50}},
  'mobilenet_v2': {
    'type': 'mobilenet',
    'mobilenet': {'model_id': 'MobileNetV2'},
  },
  'vit_ti16': {
    'type': 'vit',
    'vit': {
      'model_name': 'vit-ti16',
      'transformer': {'dropout_rate': 0.0, 'attention_dropout_rate': 0.0},
    },
  },
}

_MODELS_FLAG = flags.DEFINE_list(
  'models', list(_MODELS), f'Networks to measure, from {", ".join(_MODELS)}.'
)
_BATCH = flags.DEFINE_integer(
  'batch_size', 4, 'Images per batch.', lower_bound=1
)
_SIZE = flags.DEFINE_integer(
  'image_size', 96, 'Height and width in pixels.', lower_bound=32
)
_WEIGHT = flags.DEFINE_float('weight', 1.0, 'Weight of the harmonization loss.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the results.')

_CLASSES = 10
_KINDS = [
  (policy, compiled)
  for policy in ('float32', 'mixed_bfloat16')
  for compiled in (False, True)
]


def _build(model_name, policy, weights=None):
  """Builds a network under a dtype policy, with the given weights."""
  config = exp_factory.get_exp_config('resnet_imagenet').task
  config.override(
    {
      'model': {
        'num_classes': _CLASSES,
        'input_size': [_SIZE.value, _SIZE.value, 3],
        'backbone': _MODELS[model_name],
      }
    }
  )
  tf_keras.mixed_precision.set_global_policy(policy)
  tf_keras.backend.set_floatx('float64' if policy == 'float64' else 'float32')
  tf_keras.utils.set_random_seed(0)
  model = task_factory.get_task(config).build_model()
  tf_keras.mixed_precision.set_global_policy('float32')
  tf_keras.backend.set_floatx('float32')
  if weights is not None:
    model.set_weights(weights)
  return model


def _gradients(model, images, labels, human, weight):
  """Returns the gradient of the total loss in its released form."""
  with tf.GradientTape() as tape:
    if weight:
      logits, maps, _ = saliency.training_maps(model, images, labels)
      loss = weight * harmonization.harmonization_loss(
        maps, human, tf.ones(_BATCH.value)
      )
    else:
      logits, loss = tf.cast(model(images, training=True), images.dtype), 0.0
    loss -= tf.reduce_mean(
      tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=-1)
    )
  return tape.gradient(loss, model.trainable_variables)


def _distance(found, expected):
  found, expected = (
    [tf.cast(t, tf.float64) for t in part] for part in (found, expected)
  )
  difference = [f - e for f, e in zip(found, expected)]
  return float(
    tf.linalg.global_norm(difference) / tf.linalg.global_norm(expected)
  )


def _measure(model_name, weight, progress):
  """Returns the distances of a network for one weight of the loss."""
  pixels = _SIZE.value
  batch = (
    tf.random.stateless_normal([_BATCH.value, pixels, pixels, 3], [1, 2]),
    tf.one_hot(tf.range(_BATCH.value) % _CLASSES, _CLASSES),
    tf.random.stateless_uniform([_BATCH.value, pixels, pixels], [3, 4]) ** 3,
  )

  def gradients(model, dtype, compiled):
    inputs = [tf.cast(t, dtype) for t in batch]
    found = tf.function(
      lambda *inputs: _gradients(model, *inputs, weight), jit_compile=compiled
    )(*inputs)
    progress.update()
    return found

  reference = _build(model_name, 'float64')
  # All dtypes use the same weights, rounded to float32.
  weights = [w.astype('float32') for w in reference.get_weights()]
  reference.set_weights(weights)
  expected = gradients(reference, tf.float64, False)
  results, graph = {}, None
  for policy, compiled in _KINDS:
    found = gradients(_build(model_name, policy, weights), tf.float32, compiled)
    name = f'{policy} {"xla" if compiled else "graph"}'
    results[name] = _distance(found, expected)
    if compiled:
      results[f'{name} from graph'] = _distance(found, graph)
    graph = found
  return results


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  results = {}
  with tqdm.tqdm(
    total=len(_MODELS_FLAG.value) * 2 * (1 + len(_KINDS)), unit='gradient'
  ) as progress:
    for model_name in _MODELS_FLAG.value:
      for weight in (0.0, _WEIGHT.value):
        name = 'harmonized' if weight else 'plain'
        results[f'{model_name}, {name}'] = _measure(
          model_name, weight, progress
        )
  print('Relative L2 distance between the gradient and that in float64.')
  columns = list(next(iter(results.values())))
  print('| network, loss | ' + ' | '.join(columns) + ' |')
  print('|---' * (len(columns) + 1) + '|')
  for name, distances in results.items():
    print(
      f'| {name} | ' + ' | '.join(f'{distances[c]:.1e}' for c in columns) + ' |'
    )
  if _OUTPUT.value:
    os.makedirs(os.path.dirname(_OUTPUT.value) or '.', exist_ok=True)
    files.write_json(
      _OUTPUT.value,
      {
        'batch_size': _BATCH.value,
        'image_size': _SIZE.value,
        'weight': _WEIGHT.value,
        'distances': results,
      },
      indent=1,
    )


if __name__ == '__main__':
  app.run(main)
