# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the harmonization loss."""

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization.losses import harmonization
from testing import released
from tests import devices

_FORMS = ('before_pyramid', 'per_level')
_ROW = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def _pyramid(h, levels):
  """Filters with explicit loops over the kernel and zero padding."""
  levels_out = [h]
  for _ in range(levels - 1):
    h = levels_out[-1]
    size = [-(-s // 2) for s in h.shape]
    pads = [max((n - 1) * 2 + 5 - s, 0) for n, s in zip(size, h.shape)]
    padded = np.pad(h, [(p // 2, p - p // 2) for p in pads])
    out = np.zeros(size)
    for i in range(5):
      for j in range(5):
        out += (
          _ROW[i]
          * _ROW[j]
          * padded[i : i + 2 * size[0] - 1 : 2, j : j + 2 * size[1] - 1 : 2]
        )
    levels_out.append(out)
  return levels_out


def _cut(h, epsilon):
  return np.maximum((h - h.mean()) / (h.std() + epsilon), 0.0)


def _oracle(saliency, human, weights, levels, form, normalization, epsilon):
  """Computes the two published forms, image by image, in NumPy float64."""
  total = 0.0
  for g, phi, token in zip(saliency, human, weights):
    if form == 'before_pyramid':
      s, h = _cut(g, epsilon), _cut(phi, epsilon)
      h = h / (h.max() + 1e-6) * (s.max() + 1e-6)
      distance = np.mean(
        [
          np.mean((a - b) ** 2)
          for a, b in zip(_pyramid(s, levels), _pyramid(h, levels))
        ]
      )
    else:
      distance = sum(
        np.sqrt(np.sum((_cut(a, epsilon) - _cut(b, epsilon)) ** 2) + 1e-12)
        for a, b in zip(_pyramid(g, levels), _pyramid(phi, levels))
      )
    total += token * distance
  count = len(weights) if normalization == 'batch' else np.sum(weights)
  return total / count if count else 0.0


def _maps(seed=0, size=(3, 20, 17)):
  rng = np.random.default_rng(seed)
  return rng.normal(size=size), rng.uniform(size=size) ** 3


class HarmonizationLossTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    form=_FORMS,
    normalization=('batch', 'mapped'),
    weights=(
      (1.0, 1.0, 1.0),
      (1.0, 0.0, 1.0),
      (0.3, 0.9, 0.5),
      (0.0, 0.0, 0.0),
    ),
    levels=(1, 5),
  )
  def test_equals_oracle(self, form, normalization, weights, levels):
    saliency, human = _maps()
    result = harmonization.harmonization_loss(
      tf.constant(saliency),
      tf.constant(human),
      tf.constant(weights, tf.float64),
      levels=levels,
      standardization=form,
      normalization=normalization,
    )
    expected = _oracle(
      saliency, human, weights, levels, form, normalization, 1e-5
    )
    self.assertAllClose(result, expected, rtol=1e-10, atol=1e-12)

  @parameterized.product(form=_FORMS)
  def test_small_maps_feel_epsilon(self, form):
    saliency, human = _maps()
    saliency *= 1e-5
    result = harmonization.harmonization_loss(
      tf.constant(saliency),
      tf.constant(human),
      tf.ones([3]),
      standardization=form,
    )
    expected = _oracle(saliency, human, [1.0] * 3, 5, form, 'batch', 1e-5)
    without = _oracle(saliency, human, [1.0] * 3, 5, form, 'batch', 0.0)
    self.assertAllClose(result, expected, rtol=1e-10)
    self.assertNotAllClose(result, without, rtol=1e-2)

  @parameterized.product(form=_FORMS)
  def test_gradient_equals_finite_differences(self, form):
    saliency, human = _maps(size=(2, 8, 8))

    def loss(s, peak_of=None):
      # The released form does not differentiate the saliency map's peak: the
      # human map is scaled by the peak of `peak_of`, held fixed.
      if form == 'per_level':
        return _oracle(s, human, (1.0, 0.5), 3, form, 'batch', 1e-5)
      total = 0.0
      for g, p, phi, w in zip(s, peak_of, human, (1.0, 0.5)):
        h = _cut(phi, 1e-5)
        h = h / (h.max() + 1e-6) * (_cut(p, 1e-5).max() + 1e-6)
        total += (
          w
          / 2
          * np.mean(
            [
              np.mean((a - b) ** 2)
              for a, b in zip(_pyramid(_cut(g, 1e-5), 3), _pyramid(h, 3))
            ]
          )
        )
      return total

    variable = tf.Variable(saliency)
    with tf.GradientTape() as tape:
      value = harmonization.harmonization_loss(
        variable,
        tf.constant(human),
        tf.constant([1.0, 0.5]),
        levels=3,
        standardization=form,
      )
    gradient = tape.gradient(value, variable).numpy()
    for index in [(0, 1, 2), (0, 7, 7), (1, 4, 0), (1, 3, 5)]:
      moved = [saliency.copy(), saliency.copy()]
      moved[0][index] += 1e-6
      moved[1][index] -= 1e-6
      expected = (loss(moved[0], saliency) - loss(moved[1], saliency)) / 2e-6
      self.assertAllClose(gradient[index], expected, rtol=1e-5, atol=1e-9)

  @parameterized.product(form=_FORMS, compiled=(True, False))
  def test_constant_maps_are_finite(self, form, compiled):
    @tf.function(jit_compile=compiled)
    def value_and_gradient(s, h):
      with tf.GradientTape() as tape:
        tape.watch(s)
        loss = harmonization.harmonization_loss(
          s, h, tf.ones([3]), standardization=form
        )
      return loss, tape.gradient(loss, s)

    for constant in ('saliency', 'human', 'both'):
      saliency, human = (m.astype(np.float32) for m in _maps())
      if constant != 'human':
        saliency[1] = 0.25
      if constant != 'saliency':
        human[1] = 0.25
      with self.subTest(constant=constant):
        value, gradient = value_and_gradient(
          tf.constant(saliency), tf.constant(human)
        )
        expected = _oracle(
          saliency.astype(np.float64),
          human.astype(np.float64),
          [1.0] * 3,
          5,
          form,
          'batch',
          1e-5,
        )
        self.assertAllClose(value, expected, rtol=1e-4)
        self.assertTrue(np.all(np.isfinite(gradient)))

  @parameterized.product(form=_FORMS)
  def test_rows_without_a_map_do_not_matter(self, form):
    saliency, human = (tf.constant(m, tf.float32) for m in _maps())
    spoiled = tf.concat([human[:2], human[2:] * np.nan], 0)
    values, gradients = [], []
    for maps in (human, spoiled):
      with tf.GradientTape() as tape:
        tape.watch(saliency)
        values.append(
          harmonization.harmonization_loss(
            saliency, maps, tf.constant([1.0, 1.0, 0.0]), standardization=form
          )
        )
      gradients.append(tape.gradient(values[-1], saliency))
    self.assertAllEqual(values[0], values[1])
    self.assertAllEqual(gradients[0], gradients[1])
    self.assertAllEqual(gradients[0][2], tf.zeros_like(gradients[0][2]))

  def test_denominator_counts_images_without_maps(self):
    saliency, human = (tf.constant(m) for m in _maps())
    ones = tf.ones([3])
    alone = harmonization.harmonization_loss(saliency, human, ones)
    among = harmonization.harmonization_loss(
      saliency,
      human,
      ones,
      divide_by=harmonization.denominator(ones, 'batch', 15),
    )
    self.assertAllClose(alone, 5.0 * among)

  def test_mapped_normalization_counts_over_replicas(self):
    strategy = devices.two_replicas()
    saliency, human = (tf.constant(m) for m in _maps(size=(4, 8, 8)))
    weights = tf.constant([1.0, 1.0, 0.5, 0.0])

    @tf.function
    def step():

      def replica():
        i = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
        return harmonization.harmonization_loss(
          saliency[i : i + 2],
          human[i : i + 2],
          weights[i : i + 2],
          normalization='mapped',
        )

      return strategy.reduce('MEAN', strategy.run(replica), axis=None)

    whole = harmonization.harmonization_loss(
      saliency, human, weights, normalization='mapped'
    )
    self.assertAllClose(step(), whole, rtol=1e-9)

  @parameterized.product(form=_FORMS, normalization=('batch', 'mapped'))
  def test_takes_arrays_and_lists(self, form, normalization):
    saliency, human = _maps(size=(2, 8, 8))
    human = np.round(255 * human).astype(np.uint8)
    options = dict(levels=2, standardization=form, normalization=normalization)
    expected = harmonization.harmonization_loss(
      tf.constant(saliency),
      tf.constant(human),
      tf.constant([1.0, 0.0]),
      **options,
    )
    for convert in (np.asarray, np.ndarray.tolist):
      found = harmonization.harmonization_loss(
        convert(saliency), convert(human), [True, False], **options
      )
      self.assertAllClose(found, expected, rtol=1e-6)
    self.assertAllEqual(
      harmonization.denominator([1, 0], normalization, 2),
      {'batch': 2.0, 'mapped': 1.0}[normalization],
    )

  def test_refuses_what_it_does_not_know(self):
    maps = tf.zeros([1, 4, 4])
    with self.assertRaisesRegex(ValueError, 'after_pyramid.*per_level'):
      harmonization.harmonization_loss(
        maps, maps, tf.ones([1]), standardization='after_pyramid'
      )
    with self.assertRaisesRegex(ValueError, 'images.*mapped'):
      harmonization.harmonization_loss(
        maps, maps, tf.ones([1]), normalization='images'
      )
    with self.assertRaisesRegex(ValueError, 'same shape'):
      harmonization.harmonization_loss(maps, tf.zeros([1, 5, 4]), tf.ones([1]))

  def test_equals_released(self):
    theirs = released.load('training.loss')
    saliency, human = (m.astype(np.float32) for m in _maps(size=(3, 32, 32)))
    self.assertAllClose(
      harmonization.standardize_and_rectify(tf.constant(saliency), 1e-5),
      theirs.standardize_cut(saliency),
      rtol=1e-5,
      atol=1e-6,
    )
    tokens = tf.constant([1.0, 0.0, 1.0])
    s, h = theirs.standardize_cut(saliency), theirs.standardize_cut(human)
    s_peak = tf.reduce_max(s, (1, 2), keepdims=True) + 1e-6
    h = h / (tf.reduce_max(h, (1, 2), keepdims=True) + 1e-6) * s_peak
    self.assertAllClose(
      harmonization.harmonization_loss(
        tf.constant(saliency), tf.constant(human), tokens
      ),
      theirs.pyramidal_mse_with_tokens(h, s, tokens),
      rtol=1e-5,
    )


if __name__ == '__main__':
  tf.test.main()
