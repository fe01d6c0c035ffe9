# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Small records and experiments for tests and benchmarks."""

import os

import numpy as np
from official.core import exp_factory
from official.vision.modeling.backbones import resnet
import tensorflow as tf

from official_ext.harmonization import registry_imports
from official_ext.harmonization.data.records import record_writer

CLASSES = 4

# A ResNet of one block. Model Garden's smallest has four, and takes four times
# as long to trace.
RESNET = 4
resnet.RESNET_SPECS[RESNET] = [('residual', 64, 1)]


def pixels(seed, size=(40, 48), channels=3):
  """Returns a smooth random image, uint8, that JPEG changes little."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (5, 6, channels)).astype(np.float32)
  return tf.cast(tf.image.resize(coarse, size), tf.uint8)


def record(seed=0, label=1, image=None, heatmap=None, omit=()):
  """Returns a serialized ClickMe record, optionally without some fields."""
  if image is None:
    image = tf.io.encode_jpeg(pixels(seed), quality=100).numpy()
  if heatmap is None:
    heatmap = tf.io.encode_jpeg(
      pixels(seed + 1000, channels=1), quality=100
    ).numpy()
  example = tf.train.Example.FromString(
    record_writer.clickme_example(image, heatmap, label)
  )
  for field in omit:
    del example.features.feature[field]
  return example.SerializeToString()


def write(folder, name, serialized):
  """Writes records to a file and returns its path."""
  path = os.path.join(folder, name)
  with record_writer.open_shard(path) as writer:
    for r in serialized:
      writer.write(r)
  return path


def write_numbered(folder, name, count):
  """Writes `count` records, whose labels cycle through 0..CLASSES-1."""
  return write(folder, name, [record(i, i % CLASSES) for i in range(count)])


def experiment(
  mapped='',
  validation='',
  plain='',
  plain_validation='',
  size=32,
  batch_size=4,
  **harmonization,
):
  """Returns a tiny harmonized_resnet_imagenet: `RESNET`, `CLASSES` classes."""
  config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
  fields = dict(
    image_field_key='image',
    label_field_key='label',
    global_batch_size=batch_size,
    mixup_and_cutmix=None,
  )
  config.task.override(
    {
      'model': {
        'num_classes': CLASSES,
        'input_size': [size, size, 3],
        'backbone': {'resnet': {'model_id': RESNET}},
      },
      'losses': {'one_hot': True, 'soft_labels': False},
      'train_data': dict(fields, input_path=plain),
      'validation_data': dict(
        fields, input_path=plain_validation, aug_crop=False
      ),
      'mapped_data': dict(
        input_path=mapped,
        label_offset=0,
        mixup_and_cutmix=None,
        shuffle_buffer_size=10,
      ),
      'mapped_validation_data': dict(input_path=validation, label_offset=0),
      'harmonization': {
        'enabled': True,
        'weight': 1.0,
        'mapped_fraction': 1.0,
        'ceiling': 1.0,
        **harmonization,
      },
    }
  )
  return config
