# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the alignment with other images' human maps."""

from absl.testing import parameterized
import numpy as np
from scipy import stats
import tensorflow as tf
import tf_keras

from official_ext.harmonization.evaluation import metrics
from official_ext.harmonization.evaluation import shuffled as shuffled_lib
from tests import devices
from tests import map_pairs

_SIZE = (12, 11)


def _images():
  """Eleven images, of which four have no ranks and one is padding.

  The human maps resemble each other, as those of people do.
  """
  pairs = [
    map_pairs.tied(size=(4, *_SIZE)),
    map_pairs.with_undefined(),
    [m[:2] for m in map_pairs.tied(6)],
  ]
  model, human = (np.concatenate(maps) for maps in zip(*pairs))
  varies = human.max((1, 2), keepdims=True) > human.min((1, 2), keepdims=True)
  human += np.round(15.0 * _centre()) * varies
  model[:4] += human[:4] / 10.0
  model[3] = np.round(model[3])  # Ties in both maps.
  valid = np.ones(11, np.float32)
  valid[-1] = 0.0
  return model, human, valid


def _centre():
  """Closeness to the centre of the image, in [0, 1]."""
  rows, columns = (np.linspace(-1.0, 1.0, n)[:, np.newaxis] for n in _SIZE)
  return (1.0 - (rows**2 + columns.T**2) / 2.0).astype(np.float32)


def _metrics():
  shuffled = shuffled_lib.ShuffledAlignment(_SIZE[0] * _SIZE[1])
  return shuffled, shuffled_lib.SpecificAlignment(shuffled)


def _update(shuffled, model, human, valid=None):
  scores, ranks = metrics.scores_and_ranks(model, human)
  shuffled.update_state(ranks, scores.spearman, valid)


class RanksTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_are_those_of_scipy_in_the_order_of_pixels(self, compiled):
    model, human, _ = _images()
    ranked = tf.function(metrics.scores_and_ranks, jit_compile=compiled)
    scores, ranks = ranked(model, human)
    undefined = np.isnan(scores.spearman)
    self.assertEqual(undefined.sum(), 4)
    self.assertAllEqual(
      scores.dice, metrics.alignment_scores(model, human).dice
    )
    for maps, found in ((model, ranks.model), (human, ranks.human)):
      expected = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
      expected -= (expected.shape[1] + 1) / 2
      expected /= np.linalg.norm(expected, axis=1, keepdims=True) + 1e-30
      expected[undefined] = 0.0
      self.assertAllClose(found, expected, rtol=1e-6, atol=1e-7)


class ShuffledTest(tf.test.TestCase, parameterized.TestCase):
  def _assert_equal(self, found, model, human):
    own, shuffled = map_pairs.own_and_shuffled(model, human)
    self.assertAllClose(
      [metric.result() for metric in found],
      [shuffled, own - shuffled],
      rtol=0.0,
      atol=1e-6,
    )
    # Faults would change the result.
    self.assertGreater(min(shuffled, own - shuffled), 0.05)

  @parameterized.parameters((1, False), (4, False), (4, True))
  def test_equal_a_loop_over_pairs(self, batch_size, compiled):
    maps = _images()
    # One shape, because compiling takes most of the time.
    padded = [
      np.pad(m, [(0, -len(m) % batch_size)] + [(0, 0)] * (m.ndim - 1))
      for m in maps
    ]
    batches = list(
      zip(*(m.reshape(-1, batch_size, *m.shape[1:]) for m in padded))
    )
    model, human, _ = (m[:-1] for m in maps)
    found = _metrics()
    update = tf.function(_update, jit_compile=compiled)
    for in_order in (batches, batches[::-1]):
      for batch in in_order:
        update(found[0], *batch)
      self._assert_equal(found, model, human)
      for metric in found:
        metric.reset_states()
        self.assertTrue(np.isnan(metric.result()))

  def test_replicas_add_sums_before_they_multiply(self):
    model, human, valid = _images()
    strategy = devices.two_replicas()
    with strategy.scope():
      found = _metrics()

    @tf.function
    def step(first):
      def replica():
        i = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = tf.range(first + 3 * i, tf.minimum(first + 3 * i + 3, 11))
        _update(found[0], *(tf.gather(x, rows) for x in (model, human, valid)))

      strategy.run(replica)

    for _ in range(2):
      for first in (0, 6):
        step(tf.constant(first))
      self._assert_equal(found, model[:-1], human[:-1])
      for metric in found:
        metric.reset_states()

  @parameterized.parameters('mixed_bfloat16', 'float32')
  def test_maps_that_ignore_the_image_are_not_specific(self, policy):
    human = _images()[1]
    maps = np.broadcast_to(_centre(), human.shape)
    tf_keras.mixed_precision.set_global_policy(policy)
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    shuffled, specific = _metrics()
    for _ in range(3):
      _update(shuffled, maps, human)
    self.assertGreater(shuffled.result(), 0.2)
    self.assertAllClose(specific.result(), 0.0, atol=1e-6)

  def test_fewer_than_two_images_are_not_compared(self):
    model, human, valid = _images()
    shuffled, specific = _metrics()
    # The first and last image, of which one is padding; and one without ranks.
    for rows in ([0, 10], [4]):
      _update(shuffled, *(x[rows] for x in (model, human, valid)))
      self.assertTrue(np.isnan(shuffled.result()))
      self.assertTrue(np.isnan(specific.result()))
    _update(shuffled, model[1:2], human[1:2])
    self._assert_equal((shuffled, specific), model[:2], human[:2])

  def test_do_not_drift_with_the_number_of_images(self):
    # Two values per map: in float32, every addition would round alike.
    maps = (_centre() > 0.8).astype(np.float32)[np.newaxis]
    scores, ranks = metrics.scores_and_ranks(maps, maps)
    found = _metrics()

    @tf.function
    def update():
      for _ in tf.range(17_000):
        found[0].update_state(ranks, scores.spearman)

    update()
    self.assertAllClose(
      [m.result() for m in found], [1.0, 0.0], rtol=0.0, atol=1e-6
    )

  def test_restores_from_its_configuration(self):
    shuffled = shuffled_lib.ShuffledAlignment(6, 'other')
    copy = shuffled_lib.ShuffledAlignment.from_config(shuffled.get_config())
    self.assertEqual((copy.name, copy.pixels), ('other', 6))


if __name__ == '__main__':
  tf.test.main()
