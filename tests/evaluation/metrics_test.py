"""Tests of the alignment metrics."""

from absl.testing import parameterized
import numpy as np
from scipy import stats
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation import metrics
from tests import devices
from tests import released


def _tied_maps(seed=0, size=(4, 12, 11)):
  """Model maps without ties and human maps that are mostly zeros."""
  rng = np.random.default_rng(seed)
  model = rng.normal(size=size).astype(np.float32)
  human = np.maximum(rng.integers(-8, 6, size), 0).astype(np.float32)
  return model, human


class CorrelationTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.parameters(False, True)
  def test_equals_scipy_with_ties(self, compiled):
    spearman = tf.function(metrics.spearman_correlation, jit_compile=compiled)
    model, human = _tied_maps()
    for a, b in ((model, human), (human, human[::-1]), (model, model)):
      expected = [
          stats.spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(a, b)
      ]
      self.assertAllClose(spearman(a, b), expected, rtol=1e-5, atol=1e-6)

  def test_average_ranks_equal_scipy(self):
    _, human = _tied_maps()
    values = np.sort(human.reshape(4, -1))
    self.assertAllEqual(
        metrics._sorted_average_ranks(tf.constant(values)),
        stats.rankdata(values, axis=1))

  def test_exact_at_224(self):
    model, human = _tied_maps(size=(1, 224, 224))
    expected = stats.spearmanr(model.ravel(), human.ravel())[0]
    self.assertAllClose(
        metrics.spearman_correlation(model, human)[0], expected, atol=1e-5)

  def test_constant_and_infinite_maps_are_undefined(self):
    model, human = _tied_maps()
    human[0] = 3.
    model[1] = 0.
    model[2, 0, 0] = np.inf
    model[3, 0, 0] = np.nan
    self.assertAllEqual(
        np.isnan(metrics.spearman_correlation(model, human)), [True] * 4)


class OverlapTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.parameters(False, True)
  def test_equal_numpy(self, compiled):
    model, human = _tied_maps()
    dice = tf.function(metrics.dice, jit_compile=compiled)
    iou = tf.function(metrics.intersection_over_union, jit_compile=compiled)
    for i in range(4):
      a = model[i] > np.percentile(model[i], 90)
      b = human[i] > np.percentile(human[i], 90)
      both = np.sum(a & b)
      self.assertAllClose(dice(model, human)[i], 2 * both / (a.sum() + b.sum()))
      self.assertAllClose(iou(model, human)[i], both / np.sum(a | b))

  def test_two_constant_maps_are_undefined(self):
    flat = tf.ones([1, 5, 5])
    self.assertTrue(np.isnan(metrics.dice(flat, flat)[0]))
    self.assertTrue(np.isnan(metrics.intersection_over_union(flat, flat)[0]))

  def test_equal_released(self):
    theirs = released.load('evaluation.metrics')
    model, human = _tied_maps()
    for name in ('spearman_correlation', 'dice', 'intersection_over_union'):
      self.assertAllClose(
          getattr(metrics, name)(model, human),
          getattr(theirs, name)(model, human), rtol=1e-5, atol=1e-5)


class AlignmentScoreTest(tf.test.TestCase):

  def test_counts_every_image_once(self):
    scores = [.5, float('nan'), .1, .3, .9]
    score = metrics.AlignmentScore(ceiling=.5)
    score.update_state(tf.constant(scores[:3]))
    score.update_state(tf.constant(scores[3:]), sample_weight=[1., 0.])
    self.assertAllClose(score.result(), (.5 + .1 + .3) / 3 / .5)
    self.assertAllClose((score.n, score.n_undefined), (3., 1.))
    score.reset_states()
    self.assertTrue(np.isnan(score.result()))

  def test_does_not_depend_on_replicas(self):
    strategy = devices.two_replicas()
    values = tf.constant([.2, .4, float('nan'), .9])
    with strategy.scope():
      score = metrics.AlignmentScore()

    @tf.function
    def step():

      def replica():
        i = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
        score.update_state(values[i:i + 2])

      strategy.run(replica)

    step()
    self.assertAllClose(score.result(), .5)
    self.assertAllClose(score.n, 3.)

  def test_restores_from_its_configuration(self):
    score = metrics.AlignmentScore('rho', ceiling=.7)
    copy = metrics.AlignmentScore.from_config(score.get_config())
    self.assertEqual((copy.name, copy.ceiling), ('rho', .7))


if __name__ == '__main__':
  tf.test.main()
