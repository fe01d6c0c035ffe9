# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the alignment metrics."""

from absl.testing import parameterized
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics
import tensorflow as tf

from official_ext.harmonization.evaluation import metrics
from official_ext.harmonization.evaluation import numpy_metrics
from testing import released
from tests import devices
from tests import map_pairs


class ScoresTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    pairs=[pairs for _, pairs in map_pairs.NAMED], compiled=(False, True)
  )
  def test_equal_scipy_numpy_and_sklearn(self, pairs, compiled):
    score = tf.function(metrics.alignment_scores, jit_compile=compiled)
    for a, b in (pairs(), pairs()[::-1]):
      found = score(a, b)
      for i, (x, y) in enumerate(zip(a, b)):
        rho = stats.spearmanr(x.ravel(), y.ravel())[0]
        self.assertAllClose(found.spearman[i], rho, rtol=1e-6, atol=1e-6)
        in_x, in_y = x > np.percentile(x, 90), y > np.percentile(y, 90)
        both = np.sum(in_x & in_y)
        self.assertAllClose(found.dice[i], 2 * both / (in_x.sum() + in_y.sum()))
        self.assertAllClose(found.iou[i], both / np.sum(in_x | in_y))
        self.assertAllClose(
          found.auc[i],
          sklearn_metrics.roc_auc_score(in_y.ravel(), x.ravel()),
          rtol=1e-6,
          atol=1e-6,
        )
        self.assertAllEqual(found.pointing[i], in_y.ravel()[np.argmax(x)])

  def test_sums_of_ranks_beyond_64_bits(self):
    # Above 1738 x 1738 pixels the sum of squared ranks exceeds 2**63.
    size = 1800**2
    values = np.arange(size, dtype=np.float32).reshape(1, 1800, 1800)
    # Each rank differs by N/2, so that 6 sum(d**2) = 3 N**3 / 2.
    self.assertAllClose(
      metrics.spearman_correlation(values, np.roll(values, 900, axis=1)),
      [1 - 1.5 * size**2 / (size**2 - 1)],
      rtol=1e-6,
    )

  def test_equals_numpy_metrics_at_any_percentile(self):
    for percentile in (0.0, 37.0, 75.0, 99.0, 100.0):
      a, b = map_pairs.tied(6)
      found = metrics.alignment_scores(a, b, percentile)._asdict()
      for name, expected in {
        **numpy_metrics.alignment_scores(a, b, percentile),
        **numpy_metrics.localization_scores(a, b, percentile),
      }.items():
        self.assertAllClose(found[name], expected, msg=name)

  def test_take_arrays_and_lists(self):
    a, b = map_pairs.tied(6)
    expected = [tf.constant(m, tf.float32) for m in (a, b)]
    for convert in (np.asarray, np.ndarray.tolist):
      for score in (
        metrics.spearman_correlation,
        metrics.dice,
        metrics.intersection_over_union,
      ):
        self.assertAllEqual(score(convert(a), convert(b)), score(*expected))

  def test_unit_ranks_are_centred_average_ranks(self):
    maps = map_pairs.tied()[1]
    _, found = metrics.scores_and_ranks(maps, maps)
    ranks = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    self.assertAllClose(found.human, ranks, rtol=1e-6, atol=1e-9)

  def test_zeros_of_both_signs_are_ties(self):
    a, b = map_pairs.tied()
    signed = np.where((b == 0) & (a > 0), np.float32(-0.0), b)
    self.assertTrue(np.any(np.signbit(signed)))
    self.assertAllEqual(
      metrics.spearman_correlation(a, signed),
      metrics.spearman_correlation(a, b),
    )

  @parameterized.parameters(False, True)
  def test_constant_and_infinite_maps_are_undefined(self, compiled):
    score = tf.function(metrics.alignment_scores, jit_compile=compiled)
    a, b = map_pairs.with_undefined()
    for pair in ((a, b), (b, a)):
      for values in score(*pair):
        self.assertAllEqual(np.isnan(values), [True] * 4 + [False])

  def test_empty_cuts(self):
    full, point = np.zeros((1, 5, 5)), np.zeros((1, 5, 5))
    full[0, :2], point[0, 0, 0] = 1.0, 1.0
    found = metrics.alignment_scores(full, full)
    self.assertAllEqual(
      np.isnan([s[0] for s in found]), [False, True, True, True, True]
    )
    self.assertAllEqual(metrics.dice(full, point), [0.0])
    self.assertAllEqual(metrics.intersection_over_union(full, point), [0.0])

  def test_pointing_takes_the_first_maximum(self):
    model, human = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
    model[0, 1, 1] = model[0, 2, 2] = model[1, 1, 1] = 1.0
    human[0, 2, 2] = human[1, 1, 1] = 1.0
    self.assertAllEqual(
      metrics.alignment_scores(model, human).pointing, [0.0, 1.0]
    )

  def test_equal_released(self):
    theirs = released.load('evaluation.metrics')
    for a, b in (map_pairs.tied(), map_pairs.large()):
      for name in ('spearman_correlation', 'dice', 'intersection_over_union'):
        expected = getattr(theirs, name)(a, b)
        self.assertAllClose(
          getattr(metrics, name)(a, b), expected, rtol=1e-5, atol=1e-5
        )
        in_numpy = numpy_metrics.alignment_scores(a, b)
        key = {
          'spearman_correlation': 'spearman',
          'intersection_over_union': 'iou',
        }.get(name, name)
        self.assertAllClose(in_numpy[key], expected, rtol=1e-8)


class AlignmentScoreTest(tf.test.TestCase):
  def test_counts_every_image_once(self):
    scores = [0.5, float('nan'), 0.1, 0.3, 0.9]
    score = metrics.AlignmentScore(ceiling=0.5)
    score.update_state(np.float64(scores[:3]))
    score.update_state(tf.constant(scores[3:]), sample_weight=[1.0, 0.0])
    self.assertAllClose(score.result(), (0.5 + 0.1 + 0.3) / 3 / 0.5)
    self.assertAllClose((score.n, score.n_undefined), (3.0, 1.0))
    score.reset_states()
    self.assertTrue(np.isnan(score.result()))

  def test_does_not_depend_on_replicas(self):
    strategy = devices.two_replicas()
    values = tf.constant([0.2, 0.4, float('nan'), 0.9])
    with strategy.scope():
      score = metrics.AlignmentScore()

    @tf.function
    def step():

      def replica():
        i = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
        score.update_state(values[i : i + 2])

      strategy.run(replica)

    step()
    self.assertAllClose(score.result(), 0.5)
    self.assertAllClose(score.n, 3.0)

  def test_restores_from_its_configuration(self):
    score = metrics.AlignmentScore('rho', ceiling=0.7)
    copy = metrics.AlignmentScore.from_config(score.get_config())
    self.assertEqual((copy.name, copy.ceiling), ('rho', 0.7))


if __name__ == '__main__':
  tf.test.main()
