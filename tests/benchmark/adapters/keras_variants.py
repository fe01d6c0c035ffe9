# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Kinds of functional models, as people write and save them.

Each is a function of a Keras, 2 (tf_keras) or 3, that returns a classifier of
images of SHAPE into CLASSES, which gives logits. As a program, this writes all
of them with the Keras 3 that it finds, and opens them with it:

  PYTHONPATH=FOLDER_OF_A_KERAS:. python -m tests...keras_variants FOLDER
"""

from collections.abc import Iterator
import os
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import keras_models

SHAPE, CLASSES = (16, 16, 3), 5
# Models that a version of Keras cannot read back from its own files: Keras 3
# does not support operations in HDF5, tf_keras does not write slices to .keras.
UNREADABLE = {
  (3, 'masks', 'h5'),
  (3, 'operations', 'h5'),
  (2, 'operations', 'keras'),
}


def _head(keras, features):
  pooled = keras.layers.GlobalAveragePooling2D()(features)
  return keras.layers.Dense(CLASSES, name='scores')(pooled)


def _conv(keras, **options):
  return keras.layers.Conv2D(4, 3, activation='relu', **options)


def plain(keras):
  image = keras.Input(SHAPE)
  x = _conv(keras)(image)
  return keras.Model(image, _head(keras, keras.layers.BatchNormalization()(x)))


def residual(keras):
  image = keras.Input(SHAPE)
  x = _conv(keras, padding='same')(image)
  y = _conv(keras, padding='same')(x)
  joined = keras.layers.Concatenate()([keras.layers.Add()([x, y]), x])
  return keras.Model(image, _head(keras, joined))


def nested(keras):
  image = keras.Input(SHAPE)
  inner = keras.Sequential(
    [
      keras.layers.Rescaling(1 / 255.0),
      _conv(keras),
      keras.layers.BatchNormalization(),
    ]
  )
  return keras.Model(image, _head(keras, plain_features(keras)(inner(image))))


def plain_features(keras):
  features = keras.Input((14, 14, 4))
  return keras.Model(features, _conv(keras)(features))


def shared_layer(keras):
  image = keras.Input(SHAPE)
  x = _conv(keras, padding='same')(image)
  again = _conv(keras, padding='same')
  return keras.Model(image, _head(keras, again(again(x))))


def shared_model(keras):
  """A Siamese network, whose second image is the first one, flipped."""
  image = keras.Input(SHAPE)
  inner = plain(keras)
  flipped = keras.layers.Permute((2, 1, 3))(image)
  return keras.Model(image, keras.layers.Add()([inner(image), inner(flipped)]))


def dict_input(keras):
  image = keras.Input(SHAPE, name='image')
  return keras.Model({'image': image}, _head(keras, _conv(keras)(image)))


def list_input(keras):
  image = keras.Input(SHAPE, name='image')
  return keras.Model([image], [_head(keras, _conv(keras)(image))])


def dict_output(keras):
  image = keras.Input(SHAPE)
  return keras.Model(image, {'logits': _head(keras, _conv(keras)(image))})


def attention(keras):
  """Reshapes, positions and attention, as in a vision transformer."""
  image = keras.Input(SHAPE)
  x = keras.layers.Conv2D(8, 4, strides=4)(image)
  x = keras.layers.Reshape((16, 8))(x)
  y = keras.layers.LayerNormalization(epsilon=1e-3)(x)
  y = keras.layers.MultiHeadAttention(2, 4)(y, y)
  x = keras.layers.Add()([x, y])
  pooled = keras.layers.GlobalAveragePooling1D()(x)
  return keras.Model(image, keras.layers.Dense(CLASSES)(pooled))


def masks(keras):
  image = keras.Input(SHAPE)
  x = keras.layers.Reshape((16, 48))(image)
  x = keras.layers.Masking(mask_value=0.0)(x)
  x = keras.layers.GRU(6, return_sequences=True)(x)
  pooled = keras.layers.GlobalAveragePooling1D()(x)
  return keras.Model(image, keras.layers.Dense(CLASSES)(pooled))


def regularized(keras):
  """Objects inside the configuration of a layer."""
  image = keras.Input(SHAPE)
  x = keras.layers.Conv2D(
    4,
    3,
    kernel_regularizer=keras.regularizers.L2(1e-4),
    kernel_constraint=keras.constraints.MaxNorm(2.0),
    kernel_initializer=keras.initializers.VarianceScaling(2.0),
  )(image)
  x = keras.layers.LeakyReLU()(x)
  x = keras.layers.TimeDistributed(keras.layers.Dense(4))(x)
  x = keras.layers.Activation(keras.activations.gelu)(x)
  return keras.Model(image, _head(keras, keras.layers.Dropout(0.5)(x)))


def augmented(keras):
  image = keras.Input(SHAPE)
  x = keras.Sequential(
    [
      keras.layers.RandomFlip('horizontal'),
      keras.layers.RandomRotation(0.1),
      keras.layers.RandomContrast(0.1),
    ]
  )(image)
  x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
  return keras.Model(image, _head(keras, _conv(keras)(x)))


def normalized(keras):
  image = keras.Input(SHAPE)
  x = keras.layers.Rescaling(1 / 255.0)(image)
  x = keras.layers.Normalization(
    mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.051]
  )(x)
  return keras.Model(image, _head(keras, _conv(keras)(x)))


def mixed_float16(keras):
  return _mixed(keras, 'mixed_float16')


def mixed_bfloat16(keras):
  return _mixed(keras, 'mixed_bfloat16')


def _mixed(keras, policy):
  image = keras.Input(SHAPE)
  x = keras.layers.Conv2D(4, 3, dtype=policy)(image)
  x = keras.layers.BatchNormalization(dtype=policy)(x)
  x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
  x = keras.layers.Dense(CLASSES, dtype=policy)(x)
  return keras.Model(
    image, keras.layers.Activation('linear', dtype='float32')(x)
  )


def operations(keras):
  """Operations on symbolic tensors: keras.ops, or TensorFlow's in Keras 2."""
  ops = tf if keras is tf_keras else keras.ops
  image = keras.Input(SHAPE)
  x = image[..., ::-1] / 255.0 - np.float32(0.5)
  x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
  x = _conv(keras)(x)
  x = (ops.concat if keras is tf_keras else ops.concatenate)([x, -x], axis=-1)
  x = ops.reshape(x, (-1, 256, 8)) * 2.0
  x = ops.transpose(x, (0, 2, 1))
  return keras.Model(image, keras.layers.Dense(CLASSES)(x[:, :, 0]))


def application(keras):
  return keras.applications.MobileNet(
    (32, 32, 3),
    alpha=0.25,
    weights=None,
    classes=CLASSES,
    classifier_activation=None,
  )


ALL = (
  plain,
  residual,
  nested,
  shared_layer,
  shared_model,
  dict_input,
  list_input,
  dict_output,
  attention,
  masks,
  regularized,
  augmented,
  normalized,
  mixed_float16,
  mixed_bfloat16,
  operations,
  application,
)


def logits(model: Any) -> np.ndarray:
  """Returns a model's logits for two images of noise."""
  shape = tf.nest.flatten(model.inputs)[0].shape[1:]
  noise = np.random.default_rng(0).uniform(0, 255, (2, *shape))
  noise = tf.constant(noise, tf.float32)
  if isinstance(getattr(model, 'input', None), dict):
    noise = {'image': noise}
  output = model(noise, training=False)
  return tf.cast(tf.nest.flatten(output)[0], tf.float32).numpy()


def write(
  keras: Any, folder: str, variants=ALL
) -> Iterator[tuple[str, np.ndarray]]:
  """Writes variants, and yields paths and logits.

  Args:
    keras: tf_keras or Keras 3.
    folder: that they are written to.
    variants: some of `ALL`.
  """
  generation = int(keras.__version__[0])
  for variant in variants:
    keras.utils.set_random_seed(0)
    model = variant(keras)
    for ending in ('keras', 'h5'):
      if (generation, variant.__name__, ending) not in UNREADABLE:
        path = os.path.join(folder, f'{variant.__name__}.{ending}')
        model.save(path)
        yield path, logits(model)


def largest_difference(path: str, expected: np.ndarray) -> float:
  """Opens a file; returns the largest difference from the expected logits."""
  return np.abs(logits(keras_models.load(path)) - expected).max()


if __name__ == '__main__':
  import keras as installed

  print(installed.__version__)
  for file, wanted in write(installed, sys.argv[1]):
    np.save(f'{file}.npy', wanted)
    print(os.path.basename(file), largest_difference(file, wanted))
