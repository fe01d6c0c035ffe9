# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the checks of explanations on a network."""

# Bazel: tags = ["networks"]

import contextlib
import os
from unittest import mock

import numpy as np
from scipy import special
from scipy import stats
import tensorflow as tf

from official_ext.harmonization.benchmark import alignment
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import explanation_checks
from official_ext.harmonization.benchmark import faithfulness
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.benchmark.protocols import faithfulness as lib
from official_ext.harmonization.benchmark.protocols import map_options
from official_ext.harmonization.benchmark.report import explanations
from testing import fixtures
from tests.benchmark import fakes
from tests.benchmark import report_results


class _Network(fakes.Adapter):
  """A network whose weights can be drawn anew for a while."""

  def __init__(self, seed=0):
    super().__init__(seed=seed)
    self.parts = []

  @contextlib.contextmanager
  def with_fresh_weights(self, seed, part='all'):
    trained = self._filters, self._linear
    fresh = fakes.Adapter(seed=seed + 100)
    self._linear = fresh._linear
    if part != 'head':
      self._filters = fresh._filters
    self.parts.append(part)
    yield
    self._filters, self._linear = trained


class _Fixed(fakes.Adapter):
  def with_fresh_weights(self, seed, part='all'):
    raise fresh_weights.Unavailable('fake:one: its weights are sealed.')


def _batch(count):
  """Makes images with maps; reading records would take most of the time."""
  rng = np.random.default_rng(0)
  pixels, human = rng.uniform(0, 255, (2, count, 16, 16, 3)).astype(np.float32)
  return labelled_images.Batch(
    images=pixels,
    maps=None,
    labels=np.arange(count) % 4,
    locations=[('a', i) for i in range(count)],
    unblurred=human[..., 0],
    names=[str(i) for i in range(count)],
  )


def _sobel(network):
  del network
  return lambda images, labels: controls.maps('sobel', images, images.shape[1])


class FaithfulnessProtocolTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(
      mock.patch.object(
        labelled_images,
        'batches',
        lambda dataset, *sizes: iter([_batch(dataset.sample)]),
      )
    )
    self.enterContext(mock.patch.object(explanation_checks, '_CHUNK', 2))
    self.enterContext(
      mock.patch.dict(
        explainers.EXPLAINERS,
        sobel=_sobel,
        constant=lambda network: lambda x, y: np.zeros(x.shape[:3]),
      )
    )

  def _protocol(self, images=4, explainer='gradient', **options):
    path = os.path.join(self.get_temp_dir(), 'records')
    fixtures.write(self.get_temp_dir(), 'records', [b''])
    dataset = labelled_images.Dataset(path)
    options = {'batch_size': 32, 'group_by': '', **options}
    return lib.FaithfulnessProtocol(
      alignment.Alignment(
        dataset,
        explainer=explainer,
        comparison_size=20,
        ceiling=None,
        **options,
      ),
      images,
    )

  def _run(self, adapter=None, kept=None, progress=lambda n: None, **options):
    found = self._protocol(**options)
    return found.run(adapter or _Network(), progress, kept)

  def test_areas_by_a_loop(self):
    adapter = _Network()
    found = self._run(adapter)
    self.assertLen(found.rows, 4)
    # As announced; predictions take one more pass.
    self.assertEqual(
      sum(adapter.batches),
      4 * (explanation_checks.FORWARD_PASSES + explanation_checks.MAPS + 1),
    )
    row = found.rows[0]
    batch = _batch(4)
    names = [(r['file'], r['record']) for r in found.rows]
    self.assertEqual(names, batch.locations)
    partner = faithfulness.partners(range(4))[0]
    image, other = batch.images[[0, partner]]
    inputs = adapter.preprocess(image[np.newaxis])
    gradient = adapter.gradients(inputs, np.eye(4)[batch.labels[:1]])
    saliency = np.abs(gradient[0]).max(-1)

    def probability(pixels):
      logits = adapter.logits(adapter.preprocess(pixels[np.newaxis]))[0]
      return special.softmax(logits)[row['label']]

    order = np.argsort(-saliency, axis=None)
    curves = {'deletion': [], 'insertion': []}
    for fraction in np.arange(11) / 10:
      chosen = order[: round(256 * fraction)]
      for name, (start, end) in (
        ('deletion', (image, other)),
        ('insertion', (other, image)),
      ):
        pixels = start.reshape(256, 3).copy()
        pixels[chosen] = end.reshape(256, 3)[chosen]
        curves[name].append(probability(pixels.reshape(16, 16, 3)))
    for name, curve in curves.items():
      self.assertAllClose(
        row[f'{name}_map_other'], np.trapezoid(curve, dx=0.1), atol=1e-6
      )
    self.assertAllClose(row['probability'], curves['deletion'][0])
    by_name = {s.name: s for s in found.scores}
    self.assertAllClose(
      by_name['map_minus_noise'].value,
      np.mean(
        [
          sum(
            sign * r[f'{direction}_{order}_{fill}'] / 3
            for fill in faithfulness.FILLS
            for order, sign_of_order in (('map', 1), ('noise', -1))
            for direction, sign in (
              ('insertion', sign_of_order),
              ('deletion', -sign_of_order),
            )
          )
          for r in found.rows
        ]
      ),
    )

  def test_maps_of_other_weights_and_classes(self):
    adapter = _Network()
    found = self._run(adapter)
    self.assertEqual(adapter.parts, ['head', 'half', 'all'] * 2)
    row, partner = found.rows[0], faithfulness.partners(range(4))[0]
    batch = _batch(4)
    inputs = adapter.preprocess(batch.images)

    def saliency(network, index, label):
      one_hot = np.eye(4, dtype=np.float32)[[label]]
      gradient = network.gradients(inputs[[index]], one_hot)
      return np.abs(gradient[0]).max(-1).ravel()

    own = saliency(adapter, 0, row['label'])
    logits = adapter.logits(inputs[:1])[0]
    logits[row['label']] = -np.inf
    self.assertEqual(row['other_class'], np.argmax(logits))
    for name, expected in (
      ('all', saliency(fakes.Adapter(seed=100), 0, row['label'])),
      ('unrelated', saliency(adapter, partner, batch.labels[partner])),
      ('other_class', saliency(adapter, 0, row['other_class'])),
    ):
      self.assertAllClose(
        row[f'rho_{name}'], stats.spearmanr(own, expected)[0], atol=1e-5
      )
    self.assertEqual(found.warnings, [])

  def test_edges_of_the_image_fail(self):
    found = self._run(explainer='sobel')
    values = {s.name: s.value for s in found.scores}
    self.assertAllClose(values['randomized_rho'], 1)
    self.assertAllClose(values['class_distance'], 0, atol=1e-6)
    self.assertAllClose(values['class_insertion'], 0, atol=1e-6)
    self.assertRegex(found.warnings[0], 'sobel fails the randomization')
    (warning,) = self._run(explainer='constant').warnings
    self.assertIn('4 of 4 images', warning)

  def test_a_resumed_run_equals_an_uninterrupted_one(self):
    whole = self._run()
    path = os.path.join(self.get_temp_dir(), 'rows.jsonl')
    progress = mock.Mock(side_effect=[None] * 3 + [KeyboardInterrupt])
    with self.assertRaises(KeyboardInterrupt):
      self._run(kept=journal.Journal(path, {}), progress=progress)
    kept = journal.Journal(path, {})
    self.assertLen(kept.items, 2)
    adapter = _Network()
    again = self._run(adapter, kept=kept, batch_size=7)
    self.assertLen(adapter.parts, 3)
    for a, b in zip(again.rows, whole.rows, strict=True):
      self.assertAllClose(
        {k: v for k, v in a.items() if isinstance(v, float)},
        {k: v for k, v in b.items() if isinstance(v, float)},
        atol=1e-5,
      )

  def test_sealed_weights(self):
    found = self._run(_Fixed())
    values = {s.name: s for s in found.scores}
    self.assertEqual(values['randomized_rho'].n_undefined, 4)
    self.assertTrue(np.isfinite(values['map_minus_noise'].value))
    (warning,) = found.warnings
    self.assertIn('its weights are sealed', warning)

  def test_one_group(self):
    with self.assertRaisesRegex(protocol.BadDataError, 'one group'):
      self._run(images=1)

  def test_identity(self):
    digests = identity.Digests()

    def of(**options):
      return self._protocol(**options).identity(digests)

    self.assertEqual(identity.differences(of(), of(batch_size=3)), '')
    for other in (
      {'images': 3},
      {'explainer': 'sobel'},
      {'samples': 3},
      {'group_by': '(.)'},
    ):
      self.assertNotEqual(identity.differences(of(), of(**other)), '')

  def test_each_explainer_has_a_protocol(self):
    explained = [
      mock.Mock(alignment=self._protocol(explainer=name)._checks)
      for name in ('gradient', 'sobel')
    ]
    options = map_options.ClickMeOptions(clickme='a', faithfulness=4)
    with mock.patch.object(
      clickme.ClickMeProtocol, 'all_from_options', return_value=explained
    ):
      first, second = lib.FaithfulnessProtocol.all_from_options(
        options, protocol.RunOptions()
      )
    self.assertEqual(first.name, 'faithfulness')
    self.assertEqual(second.name, 'faithfulness.sobel')
    self.assertIs(type(second), registry.get('faithfulness.sobel'))
    # A result is found again if the order of the explainers changes.
    digests = identity.Digests()
    alone = self._protocol(explainer='sobel').identity(digests)
    self.assertEqual(identity.differences(second.identity(digests), alone), '')


class ReportTest(tf.test.TestCase):
  def test_picture_has_networks_with_both_scores(self):
    both = {
      'clickme': report_results.result({'top1': 0.5}),
      'faithfulness': report_results.result({'blurred_map_minus_noise': 0.3}),
    }
    specific = {'specific': report_results.score('specific', 0.2)}
    explained = {'gradient': mock.Mock(scores=specific)}
    object.__setattr__(both['clickme'], 'explainers', explained)
    models = [
      report_results.model('one', **both),
      report_results.model('two', clickme=both['clickme']),
    ]
    (point,) = explanations.points(models)
    self.assertEqual(point[:2], ('one', 'gradient'))
    self.assertEqual(point.specific.value, 0.2)
    self.assertEqual(point.faithfulness.value, 0.3)
    drawing = explanations.draw(models)
    self.assertEqual(drawing.axes[0].get_xlabel(), 'specific alignment')
    self.assertEmpty(explanations.section(models[1:]))


if __name__ == '__main__':
  tf.test.main()
