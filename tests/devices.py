# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Two logical CPU devices, for tests of strategies with replicas.

Devices can be split only before TensorFlow runs its first op. Therefore this
happens on import, and a test module may not run an op on import.
"""

import functools

import tensorflow as tf

tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
  """Returns a strategy with one replica on each device.

  It is always the same strategy. Strategies number their sums over replicas,
  and TensorFlow would confuse sums of two strategies on the same devices.
  """
  return tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
