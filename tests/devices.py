"""Two logical CPU devices, so that strategies with replicas can be tested.

Devices can be split only before TensorFlow starts, so this happens on import,
and no test may run an op while it is imported.
"""

import functools

import tensorflow as tf

tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
  """Returns a strategy with one replica on each.

  Always the same one: sums over replicas are numbered by their strategy, and
  those of a second one on the same devices would be taken for the first's.
  """
  return tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
