# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of saliency maps."""

from absl.testing import parameterized
import numpy as np
from scipy import stats
import tensorflow as tf
import tf_keras

from official_ext.harmonization.ops import saliency


def _network(dtype):
  tf_keras.utils.set_random_seed(0)
  return tf_keras.Sequential(
    [
      tf_keras.layers.InputLayer([5, 6, 3], dtype=dtype),
      tf_keras.layers.Conv2D(4, 3, activation='tanh', dtype=dtype),
      tf_keras.layers.Flatten(dtype=dtype),
      tf_keras.layers.Dense(4, dtype=dtype),
    ]
  )


def _score(kind, logits, targets):
  """Computes the saliency target in NumPy."""
  if kind == 'centered_logit':
    logits = logits - logits.mean(-1, keepdims=True)
  elif kind == 'log_probability':
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return (logits * targets).sum()


class SaliencyTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    kind=('logit', 'centered_logit', 'log_probability'),
    reduction=('signed_mean', 'abs_mean', 'abs_max'),
  )
  def test_equals_finite_differences(self, kind, reduction):
    model = _network('float64')
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 5, 6, 3))
    targets = rng.uniform(size=(2, 4))
    gradient = np.zeros_like(images)
    step = 1e-6
    for index in np.ndindex(*images.shape):
      values = []
      for sign in (1, -1):
        moved = images.copy()
        moved[index] += sign * step
        values.append(_score(kind, model(moved).numpy(), targets))
      gradient[index] = (values[0] - values[1]) / (2 * step)
    expected = {
      'signed_mean': gradient.mean(-1),
      'abs_mean': np.abs(gradient).mean(-1),
      'abs_max': np.abs(gradient).max(-1),
    }[reduction]
    logits, maps = saliency.saliency_maps(
      model,
      tf.constant(images),
      tf.constant(targets),
      reduction=reduction,
      saliency_target=kind,
      training=False,
    )
    self.assertAllClose(logits, model(images))
    self.assertAllClose(maps, expected, atol=1e-7)

  def test_only_the_rows_with_targets(self):
    model = _network('float32')
    images = tf.random.stateless_normal([3, 5, 6, 3], [1, 2])
    targets = tf.one_hot([1, 0, 2], 4)
    logits, every = saliency.saliency_maps(
      model, images, targets, training=True
    )
    same_logits, two = saliency.saliency_maps(
      model, images, targets[:2], training=True
    )
    self.assertEqual(two.shape, [2, 5, 6])
    self.assertAllClose(two, every[:2])
    self.assertAllClose(logits, same_logits)
    with self.assertRaisesRegex(ValueError, '3 targets for 2 images'):
      saliency.saliency_maps(model, images[:2], targets, training=True)

  def test_takes_arrays_and_lists(self):
    model = _network('float32')
    images = np.arange(90).reshape(1, 5, 6, 3)
    expected = saliency.saliency_maps(
      model, tf.constant(images, tf.float32), tf.one_hot([1], 4), training=False
    )
    for array in (images, images.astype(np.uint8), images.tolist()):
      for targets in ([[0, 1, 0, 0]], np.eye(4)[1:2] > 0):
        found = saliency.saliency_maps(model, array, targets, training=False)
        for ours, theirs in zip(found, expected):
          self.assertAllEqual(ours, theirs)

  def test_narrow_images_give_float32(self):
    model = _network('float32')
    images = tf.zeros([1, 5, 6, 3], tf.bfloat16)
    logits, maps = saliency.saliency_maps(
      model, images, tf.one_hot([1], 4), training=False
    )
    self.assertEqual((logits.dtype, maps.dtype), (tf.float32, tf.float32))

  def test_refuses_what_it_does_not_know(self):
    model, images = _network('float32'), tf.zeros([1, 5, 6, 3])
    targets = tf.one_hot([1], 4)
    with self.assertRaisesRegex(ValueError, 'abs_median.*signed_mean'):
      saliency.saliency_maps(
        model, images, targets, reduction='abs_median', training=True
      )
    with self.assertRaisesRegex(ValueError, 'logits.*log_probability'):
      saliency.saliency_maps(
        model, images, targets, training=True, saliency_target='logits'
      )
    for run in (lambda f: f, tf.function):
      with self.assertRaisesRegex(ValueError, 'no gradient.*AdjustContrastv2'):
        run(
          lambda: saliency.saliency_maps(
            lambda x, training: (
              tf.reduce_mean(tf.image.adjust_contrast(x, 2.0), [1, 2])[:, :1]
              * tf.ones([1, 4])
            ),
            images,
            targets,
            training=True,
          )
        )()
    with self.assertRaisesRegex(ValueError, 'do not depend on the images'):
      saliency.saliency_maps(
        lambda x, training: tf.zeros([1, 4]), images, targets, training=True
      )


class _Normalized(tf_keras.Model):
  """A network with batch norm, dropout and an auxiliary loss."""

  def __init__(self):
    super().__init__()
    self.parts = tf_keras.Sequential(
      [
        tf_keras.layers.Conv2D(4, 3),
        tf_keras.layers.BatchNormalization(),
        tf_keras.layers.Activation('tanh'),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(4, kernel_regularizer='l2'),
      ]
    )

  def call(self, x, training=None):
    self.add_loss(tf.reduce_mean(x))
    return self.parts(x, training=training)


class TrainingMapsTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    tf_keras.utils.set_random_seed(0)
    self.model = _Normalized()
    self.images = tf.random.stateless_normal([4, 5, 6, 3], [1, 2])
    self.targets = tf.one_hot([1, 0, 2], 4)
    self.model(self.images)

  def _expected(self, rows, training):
    return saliency.saliency_maps(
      self.model, self.images[rows], self.targets, training=training
    )

  def _aux(self, rows):
    """Returns the auxiliary loss of some rows, and the decay."""
    return float(tf.reduce_mean(self.images[rows])) + float(
      tf_keras.regularizers.l2()(self.model.parts.layers[-1].kernel)
    )

  def test_batch_normalizes_all_images_together(self):
    logits, maps = self._expected(slice(None), True)
    found = saliency.training_maps(
      self.model, self.images, self.targets, batch_norm='batch'
    )
    self.assertAllClose(found[0], logits)
    self.assertAllClose(found[1], maps)
    self.assertAllClose(tf.add_n(found[2]), self._aux(slice(None)))

  def test_mapped_normalizes_either_part_alone(self):
    logits, maps = self._expected(slice(0, 3), True)
    others = self.model(self.images[3:], training=True)
    found = saliency.training_maps(
      self.model, self.images, self.targets, batch_norm='mapped'
    )
    self.assertAllClose(found[0], tf.concat([logits, others], 0))
    self.assertAllClose(found[1], maps)
    self.assertAllClose(
      tf.add_n(found[2]),
      0.75 * self._aux(slice(0, 3)) + 0.25 * self._aux(slice(3, 4)),
    )

  def test_inference_maps_see_the_moving_averages(self):
    _, maps = self._expected(slice(0, 3), False)
    logits = self.model(self.images, training=True)
    for variable in self.model.non_trainable_variables:
      variable.assign(tf.ones_like(variable) * 0.5)
    _, other_maps = self._expected(slice(0, 3), False)
    self.assertNotAllClose(maps, other_maps)
    found = saliency.training_maps(
      self.model, self.images, self.targets, batch_norm='inference'
    )
    self.assertAllClose(found[0], logits)
    self.assertAllClose(found[1], other_maps)
    self.assertAllClose(tf.add_n(found[2]), self._aux(slice(None)))

  def test_choices_agree_without_batch_norm(self):
    model = _network('float32')
    results = [
      saliency.training_maps(model, self.images, self.targets, batch_norm=b)
      for b in saliency.BATCH_NORMS
    ]
    for logits, maps, _ in results[1:]:
      self.assertAllClose(logits, results[0][0])
      self.assertAllClose(maps, results[0][1])

  def test_takes_arrays_and_lists(self):
    expected = saliency.training_maps(self.model, self.images, self.targets)
    found = saliency.training_maps(
      self.model,
      self.images.numpy(),
      [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]],
    )
    for ours, theirs in zip(found[:2], expected):
      self.assertAllEqual(ours, theirs)

  def test_refuses_what_it_does_not_know(self):
    with self.assertRaisesRegex(ValueError, 'training.*mapped'):
      saliency.training_maps(
        self.model, self.images, self.targets, batch_norm='training'
      )


class SmoothgradSquaredTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_without_noise_it_is_the_squared_gradient(self, compiled):
    model = _network('float32')
    images = tf.random.stateless_normal([3, 5, 6, 3], [1, 2])
    targets = tf.one_hot([1, 0, 2], 4)
    maps_of = tf.function(saliency.smoothgrad_squared, jit_compile=compiled)
    logits, maps = maps_of(
      model, images, targets, tf.zeros([3, 2], tf.int32), samples=4, noise=0.0
    )
    expected_logits, expected = saliency.saliency_maps(
      model, images, targets, reduction='abs_max', training=False
    )
    self.assertAllClose(logits, expected_logits)
    self.assertAllClose(maps, expected**2)

  def test_the_noise_is_normal_and_that_of_the_record(self):
    # The score is 3/2 of the squared norm, so that the gradient at x + e is
    # 3 (x + e), and where x is 0 the map is chi-squared.
    images = np.zeros([4, 12, 12, 1], np.float32)
    images[:, 0, 0], images[:, 0, 1] = -2.0, 2.0
    records = tf.constant([[0, 0], [1, 0], [0, 1], [1, 0]])

    def maps_of(rows, samples=25):
      return saliency.smoothgrad_squared(
        lambda x, training: 1.5 * tf.reduce_sum(x**2, [1, 2]),
        tf.constant(images[rows]),
        tf.ones([len(rows), 1]),
        tf.gather(records, rows),
        samples=samples,
      )[1].numpy()

    maps = maps_of([0, 1, 2, 3])
    noise = 25 * maps[:, 1:] / (3 * 0.05 * 4) ** 2
    self.assertGreater(
      stats.kstest(noise[:3].ravel(), 'chi2', [25]).pvalue, 0.01
    )
    # Images of three records are independent; the fourth repeats the second.
    correlations = np.corrcoef(noise.reshape(4, -1))
    self.assertLess(np.abs(correlations[:3, :3] - np.eye(3)).max(), 0.3)
    self.assertAllEqual(maps[3], maps[1])
    # In another batch; and the first sample is that of a single one.
    self.assertAllClose(maps_of([2, 1]), maps[[2, 1]])
    one, two = maps_of([1], 1), maps_of([1], 2)
    self.assertTrue(np.all(2 * two > one * 0.999))


if __name__ == '__main__':
  tf.test.main()
