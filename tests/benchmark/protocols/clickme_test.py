# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the ClickMe and Clicktionary protocols."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

import dataclasses
import json
import os
import sys
import types
from unittest import mock

from absl.testing import parameterized
import numpy as np
from scipy import ndimage
from scipy import stats
import tensorflow as tf
import tqdm

from official_ext.harmonization.benchmark import alignment
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import map_alignment
from official_ext.harmonization.benchmark import measured_ceilings
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import network_pairs
from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import perceptual_hash
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark import user_jackknife
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.benchmark.protocols import clicktionary
from official_ext.harmonization.benchmark.protocols import imagenet
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.evaluation import scores
from testing import fixtures
from testing import released
from tests.benchmark import fakes

_PROTOCOLS = {
  'clickme': clickme.ClickMeProtocol,
  'clicktionary': clicktionary.ClicktionaryProtocol,
}


def _released_sizes(count):
  """Makes records of 256x256 pixels with graded maps, as in the release."""
  records = []
  for i in range(count):
    image, heatmap = (
      tf.io.encode_jpeg(
        fixtures.pixels(seed, (256, 256), channels), quality=95
      ).numpy()
      for seed, channels in ((i, 3), (i + 100, 1))
    )
    records.append(fixtures.record(label=7 * i, image=image, heatmap=heatmap))
  return records


def _run(
  path,
  adapter=None,
  batch_size=2,
  name='clickme',
  explainer='gradient',
  comparison_size=20,
  ceiling=None,
  **source,
):
  source = labelled_images.Dataset(path, **source)
  experiment = _PROTOCOLS[name](
    source,
    batch_size=batch_size,
    explainer=explainer,
    comparison_size=comparison_size,
    ceiling=ceiling,
  )
  return experiment.run(adapter or fakes.Adapter(), lambda n: None)


def _by_name(result):
  return {s.name: s for s in result.scores}


class ReleasedTest(tf.test.TestCase):
  def test_equals_the_released_evaluation(self):
    path = fixtures.write(
      self.get_temp_dir(), 'val.tfrecords', _released_sizes(5)
    )
    adapter = fakes.Adapter(224, 1000, patch=56)
    # The release imports xplique even if it is given another explainer.
    package = {
      name: types.ModuleType(name)
      for name in ('xplique', 'xplique.attributions')
    }
    package['xplique.attributions'].Saliency = None
    with mock.patch.dict(sys.modules, package):
      theirs = released.load('evaluation.clickme')
    dataset = released.load('common.clickme_dataset').load_clickme([path], 5)

    def saliency(images, labels):
      gradients = adapter.gradients(images.numpy(), labels.numpy())
      return np.abs(gradients).max(-1)

    expected = theirs.evaluate_clickme(
      None, saliency, dataset, preprocess_inputs=lambda x: x / 255.0 - 0.5
    )
    found = _run(path, adapter, comparison_size=224, ceiling=0.65753)
    for metric in map_alignment.METRICS:
      self.assertAllClose(
        [row[metric] for row in found.rows], expected[metric], atol=1e-4
      )
      self.assertAllClose(
        _by_name(found)[metric].value, np.mean(expected[metric]), atol=1e-4
      )
    self.assertAllClose(
      _by_name(found)['spearman'].normalized,
      expected['alignment_score'],
      atol=1e-4,
    )
    # The maps are not trivial.
    self.assertGreater(np.std(expected['spearman']), 0.01)


class ClickMeProtocolTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = fixtures.write_numbered(self.get_temp_dir(), 'a.tfrecords', 5)

  def test_each_record_once_at_any_batch_size(self):
    results = []
    for batch_size in (1, 2, 5, 64):
      adapter = fakes.Adapter()
      results.append(_run(self.path, adapter, batch_size))
      self.assertEqual(sum(adapter.batches), 5)
      self.assertLessEqual(max(adapter.batches), batch_size)
    rows = results[0].rows
    self.assertEqual([r['record'] for r in rows], [0, 1, 2, 3, 4])
    self.assertEqual([r['label'] for r in rows], [0, 1, 2, 3, 0])
    self.assertEqual({r['file'] for r in rows}, {self.path})
    for other in results[1:]:
      for metric in (*map_alignment.METRICS, 'map_extent'):
        self.assertAllClose(
          [r[metric] for r in other.rows], [r[metric] for r in rows], atol=1e-5
        )
      self.assertEqual(
        _by_name(other)['top1'].value, _by_name(results[0])['top1'].value
      )

  def test_files_are_read_in_order(self):
    fixtures.write_numbered(self.get_temp_dir(), 'b.tfrecords', 2)
    found = _run(os.path.join(self.get_temp_dir(), '?.tfrecords'))
    self.assertEqual(
      [(os.path.basename(r['file'])[0], r['record']) for r in found.rows],
      [*(('a', i) for i in range(5)), ('b', 0), ('b', 1)],
    )

  def test_expected_gradients_start_from_the_dataset(self):
    options = dict(explainer='expected_gradients')
    found = [_run(self.path, fakes.Adapter(), n, **options) for n in (5, 2)]
    spearman = [[r['spearman'] for r in f.rows] for f in found]
    self.assertLen(set(spearman[0]), 5)
    self.assertAllClose(*spearman, atol=1e-6)

  def test_one_pass_gives_map_and_decision(self):
    adapter = fakes.Adapter()
    found = _run(self.path, adapter, batch_size=5)
    self.assertEqual(adapter.batches, [5])
    decisions = [r['prediction'] for r in found.rows]
    inputs = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    one_pass = map_alignment.OnePass(adapter, inputs)
    one_pass.gradients(inputs + np.float32(0.5), np.eye(4)[:2])
    self.assertAllEqual(one_pass.logits(inputs), adapter.logits(inputs))
    again = _run(self.path, adapter, 5, explainer='integrated_gradients')
    self.assertEqual([r['prediction'] for r in again.rows], decisions)
    self.assertEqual(
      _by_name(again)['spearman'].details['explainer'], 'integrated_gradients'
    )

  def test_native_size_is_recorded(self):
    native = _run(self.path, comparison_size=None)
    self.assertEqual(_by_name(native)['dice'].details['compared_at'], [16, 16])
    other = _run(self.path, comparison_size=20)
    self.assertEqual(_by_name(other)['dice'].details['compared_at'], [20, 20])
    self.assertNotEqual(
      _by_name(native)['spearman'].value, _by_name(other)['spearman'].value
    )
    self.assertIn('20x20', _by_name(other)['spearman'].preprocessing)

  def test_a_resumed_run_equals_an_uninterrupted_one(self):
    experiment = clickme.ClickMeProtocol(
      labelled_images.Dataset(self.path),
      batch_size=2,
      comparison_size=20,
    )
    whole = experiment.run(fakes.Adapter(), lambda n: None)
    journal_path = os.path.join(self.get_temp_dir(), 'rows.jsonl')
    for _ in range(2):  # Each is interrupted after a batch.
      with self.assertRaises(KeyboardInterrupt):
        experiment.run(
          fakes.Adapter(),
          mock.Mock(side_effect=KeyboardInterrupt),
          journal.Journal(journal_path, {}),
        )
    kept = journal.Journal(journal_path, {})
    self.assertLen(kept.items, 4)
    adapter = fakes.Adapter()
    again = experiment.run(adapter, lambda n: None, kept)
    # All five for the examples, and the missing one.
    self.assertEqual(sum(adapter.batches), 5 + 1)
    self.assertEqual(again.rows, whole.rows)
    self.assertEqual(
      [s.to_json() for s in again.scores], [s.to_json() for s in whole.scores]
    )
    for name in ('images', 'human', 'model'):
      self.assertAllEqual(
        getattr(again.examples, name), getattr(whole.examples, name)
      )

  def test_identity_is_of_contents_and_options(self):
    copy = os.path.join(self.get_temp_dir(), 'copy.tfrecords')
    tf.io.gfile.copy(self.path, copy, overwrite=True)
    digests = identity.Digests()

    def of(
      path=self.path,
      explainer='gradient',
      size=20,
      ceiling=None,
      batch_size=2,
      metrics='none',
      **source,
    ):
      return clickme.ClickMeProtocol(
        labelled_images.Dataset(path, **source),
        explainer=explainer,
        batch_size=batch_size,
        comparison_size=size,
        ceiling=ceiling,
        metrics=metrics,
      ).identity(digests)

    # Results of versions without saliency metrics.
    self.assertNotIn('metrics', of()['options'])

    for same in (
      dict(path=copy),
      dict(ceiling=0.5),
      dict(batch_size=7),
      dict(raw_image_max=1.0),
    ):
      self.assertEqual(identity.differences(of(), of(**same)), '')
    for other in (
      dict(limit=2),
      dict(blur=False),
      dict(label_offset=1),
      dict(map_decoder='canonical'),
      dict(size=None),
      dict(explainer='smoothgrad'),
      dict(metrics='standard'),
    ):
      self.assertNotEqual(identity.differences(of(), of(**other)), '')
    with open(copy, 'r+b') as f:
      f.seek(-1, os.SEEK_END)
      f.write(b'x')
    self.assertIn('data.sha256', identity.differences(of(), of(copy)))

  def test_images_of_training_records(self):
    folder = self.get_temp_dir()

    def pixels(seed):  # With finer structure than that of the fixtures.
      noise = np.random.default_rng(seed).normal(size=(60, 60, 3))
      smooth = ndimage.gaussian_filter(noise, (2, 2, 0))
      return np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)

    image, *others = map(pixels, range(3))
    white = np.full((60, 60, 3), 250, np.uint8)

    def write(name, images):
      return fixtures.write(
        folder,
        name,
        [
          fixtures.record(image=tf.io.encode_jpeg(i, quality=90).numpy())
          for i in images
        ],
      )

    wide = np.concatenate([white[:, :9], image, white[:, :9]], axis=1)
    larger = tf.image.resize(image, (90, 80)).numpy().astype(np.uint8)
    write('val', [others[0], image, white, image[:, ::-1], larger])
    train = write('train', [white, others[1], wide])
    run = protocol.RunOptions(
      output_dir=folder, training_records=train, exclude=True
    )
    scored = labelled_images.Dataset(os.path.join(folder, 'val'))

    def check(**changes):
      return labelled_images.compared_with_training(
        scored, dataclasses.replace(run, **changes), 'clickme'
      )

    found = check()
    self.assertIs(check(training_records=''), scored)
    copies = found.leakage.copies
    self.assertEqual([c.record for c in copies], [1, 3, 4])
    self.assertEqual([c.is_flipped for c in copies], [False, True, False])
    self.assertEqual({c.training_record for c in copies}, {2})
    self.assertEqual(found.leakage.without_structure, 1)
    self.assertIn('3 of 5 images also occur', found.leakage.summary())
    table = os.path.join(folder, 'clickme.training_copies.csv')
    with open(table) as f:
      self.assertLen(f.readlines(), 4)

    # Of the records that --limit excludes, none counts.
    two = labelled_images.compared_with_training(
      dataclasses.replace(scored, limit=2), run, 'limited'
    )
    self.assertEqual([c.record for c in two.leakage.copies], [1])
    self.assertEqual(two.leakage.images, 2)

    first = check(training_records=write('first', [wide])).leakage.copies
    self.assertEqual([c.training_record for c in first], [0, 0, 0])
    with mock.patch.object(manifest, 'count', return_value=5):
      self.assertEqual(found.total(), 2)

    # Two remain; identities differ only if they are excluded.
    self.assertEqual(found.leakage.identity()['images'], 3)
    self.assertEqual(check(exclude=False).options(), scored.options())
    self.assertNotEqual(found.options(), scored.options())
    for dataset, positions in (
      (found, [0, 2]),
      (dataclasses.replace(found, sample=1), [0]),
      (check(exclude=False), range(5)),
    ):
      read = [int(r['index']) for r in dataset.read()]
      if dataset.sample:
        self.assertLen(read, 1)
        self.assertIn(read[0], [0, 2])
      else:
        self.assertSequenceEqual(read, positions)
    # Hashes are kept.
    with mock.patch.object(
      perceptual_hash, 'hashes', side_effect=AssertionError
    ):
      self.assertEqual(check().leakage.copies, copies)

  def test_a_stored_score_is_shown_with_another_ceiling(self):
    experiment = clickme.ClickMeProtocol(
      labelled_images.Dataset(self.path),
      batch_size=2,
      ceiling=0.5,
      comparison_size=20,
    )
    stored = {s.name: s for s in _run(self.path).scores}
    self.assertEqual(
      experiment.present(stored),
      {s.name: s for s in _run(self.path, ceiling=0.5).scores},
    )

  def test_only_the_rank_correlation_has_a_ceiling(self):
    found = _by_name(_run(self.path, ceiling=0.5))
    self.assertAllClose(
      found['spearman'].normalized, found['spearman'].value / 0.5
    )
    self.assertIsNone(found['dice'].ceiling)
    self.assertIsNone(found['top1'].ceiling)
    raw = _by_name(_run(self.path, name='clicktionary'))
    self.assertIsNone(raw['spearman'].normalized)

  def test_constant_map_is_counted_with_a_warning(self):
    flat = tf.io.encode_png(tf.fill([8, 8, 1], tf.constant(9, tf.uint8)))
    path = fixtures.write(
      self.get_temp_dir(),
      'flat.tfrecords',
      [fixtures.record(1), fixtures.record(2, heatmap=flat.numpy())],
    )
    # Without the blur, whose zero padding makes any map vary.
    found = _run(path, blur=False)
    score = _by_name(found)['spearman']
    self.assertEqual((score.n, score.n_undefined), (1, 1))
    self.assertEqual(score.value, found.rows[0]['spearman'])
    self.assertTrue(any('1 of 2 images' in w for w in found.warnings))

  def test_label_offset_picks_the_class(self):
    plain = _run(self.path, fakes.Adapter(classes=6))
    moved = _run(self.path, fakes.Adapter(classes=6), label_offset=2)
    self.assertEqual([r['label'] for r in moved.rows], [2, 3, 4, 5, 2])
    self.assertNotAllClose(
      [r['spearman'] for r in moved.rows], [r['spearman'] for r in plain.rows]
    )

  def test_accuracy_is_over_groups_of_images(self):
    path = fixtures.write(
      self.get_temp_dir(), 'copies', [fixtures.record(i, i) for i in (0, 1, 1)]
    )
    found = _run(path)
    top1 = _by_name(found)['top1']
    self.assertEqual([r['group'] for r in found.rows], [0, 1, 1])
    hits = [r['correct'] for r in found.rows]
    self.assertEqual(
      (top1.low, top1.high), statistics.proportion(hits, [0, 1, 1])
    )
    self.assertIn('over groups of images', top1.interval_method)
    self.assertEqual(
      _by_name(_run(self.path))['top1'].interval_method, 'Wilson'
    )

  def test_label_outside_the_classes_is_named(self):
    with self.assertRaisesRegex(
      ValueError, r'a\.tfrecords, record 3 .*label 3 plus the label offset'
    ):
      _run(self.path, label_offset=1)

  def test_a_drawn_sample_is_the_same_for_all_networks(self):
    found = [
      [r['record'] for r in _run(self.path, batch_size=b, sample=3).rows]
      for b in (1, 3)
    ]
    self.assertEqual(found[0], found[1])
    self.assertLen(set(found[0]), 3)
    everything = _run(self.path, sample=9).rows
    self.assertEqual([r['record'] for r in everything], [0, 1, 2, 3, 4])

  def test_limit(self):
    found = _run(self.path, limit=3)
    self.assertLen(found.rows, 3)
    self.assertEqual(_by_name(found)['top1'].details['limit'], 3)

  def test_examples_are_the_first_images(self):
    found = _run(self.path, batch_size=2).examples
    self.assertEqual(found.images.shape, (5, 20, 20, 3))
    self.assertEqual(
      (found.human.shape, found.model.shape), ((5, 20, 20), (5, 20, 20))
    )
    expected = tf.io.decode_jpeg(_image_of(self.path))
    for side in (16, 20):
      expected = tf.image.resize(expected, [side, side])
    self.assertAllClose(found.images[0], expected, atol=0.5)

  def test_settings_change_with_the_data(self):
    source = labelled_images.Dataset(self.path)
    before = clickme.ClickMeProtocol(source, batch_size=1).settings()
    self.assertEqual(
      before,
      clickme.ClickMeProtocol(source, batch_size=9).settings(),
    )
    fixtures.write_numbered(self.get_temp_dir(), 'a.tfrecords', 6)
    self.assertNotEqual(
      before,
      clickme.ClickMeProtocol(source, batch_size=1).settings(),
    )

  def test_map_resize_and_kernel(self):
    # The release does not see a click at (128, 128): of every 4 pixels it
    # samples only the second and the third.
    click = np.zeros((256, 256, 1), np.uint8)
    click[128, 128] = 255
    image = tf.io.encode_png(fixtures.pixels(0)).numpy()
    heatmap = tf.io.encode_png(click).numpy()
    released = fixtures.write(
      self.get_temp_dir(),
      'released',
      [fixtures.record(image=image, heatmap=heatmap)],
    )
    canonical = fixtures.write(
      self.get_temp_dir(),
      'canonical',
      [record_writer.canonical_example(image, 1, 'a.png', heatmap)],
    )
    for path, decoder, options, seen, centred in (
      (released, 'clickme', {}, False, False),
      (canonical, 'canonical', {}, True, False),
      (canonical, 'canonical', {'map_resize': 'released'}, False, False),
      (released, 'clickme', {'map_resize': 'antialias'}, True, False),
      (canonical, 'canonical', {'blur_kernel': 'centred'}, True, True),
    ):
      source = labelled_images.Dataset(path, decoder, **options)
      (batch,) = labelled_images.batches(source, (32, 32), (224, 224), 6, 1)
      self.assertEqual(batch.maps.max() > 0, seen)
      if seen:
        place = np.array(ndimage.center_of_mass(batch.maps[0]))
        # From 256 to 224 pixels the scale is .875; antialiasing is symmetric.
        self.assertAllClose(
          place,
          np.full(2, 128.5 * 0.875 - 0.5)
          - (0.0 if centred else np.array([1.6, 1.9])),
          atol=0.02,
        )
      experiment = clickme.ClickMeProtocol(source, batch_size=1)
      settings = experiment.settings()
      self.assertEqual(
        settings.get('map_resize', 'released'),
        'antialias' if seen else 'released',
      )
      self.assertEqual(
        settings.get('blur_kernel', 'released'),
        'centred' if centred else 'released',
      )
      line = alignment.Alignment(
        source, 1, 'gradient', None, None, ''
      ).preprocessing(fakes.Adapter(), (224, 224))
      self.assertEqual('antialiased' in line, seen)
      self.assertEqual('(centred)' in line, centred)


class ExplainersTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    self.path = fixtures.write_numbered(self.folder, 'a.tfrecords', 5)
    self.output_dir = os.path.join(self.folder, 'out')
    self.measured = []
    measure = alignment.Alignment.run

    def measured(of, adapter, *given):
      self.measured.append((adapter.name, of.explainer))
      return measure(of, adapter, *given)

    self.enter_context(mock.patch.object(alignment.Alignment, 'run', measured))

  def _build(self, spec):
    adapter = fakes.Adapter(spec=spec)

    def randomize(seed):
      del seed
      adapter._linear = -adapter._linear

    adapter.randomize = randomize
    return adapter

  def _measure(self, *names):
    options = clickme.ClickMeOptions(
      clickme=self.path,
      map_decoder='clickme',
      comparison_size=20,
      explainers=names,
      explainer_samples=2,
      metrics='none',
    )
    self.measured.clear()
    protocols = clickme.ClickMeProtocol.all_from_options(
      options, protocol.RunOptions(output_dir=self.output_dir, batch_size=5)
    )
    network = model_specs.parse('keras:one')
    rows = [
      network,
      *model_specs.controls()[:1],
      *model_specs.random_twins([network], 1),
    ]
    found = run.Benchmark(protocols, self.output_dir, self._build).run(rows)
    return found, {m.name: m.results for m in found.models}

  def _table(self, stored):
    return scores.read_rows(os.path.join(self.output_dir, stored.table))

  def test_an_explainer_measures_only_what_is_new(self):
    squared = 'clickme.smoothgrad_squared'
    self._measure('gradient')
    rows = ['one', 'control-centre', 'random-one-0']
    self.assertEqual(self.measured, [(row, 'gradient') for row in rows])
    found, by_name = self._measure('gradient', 'smoothgrad_squared')
    self.assertEqual(
      self.measured, [(row, 'smoothgrad_squared') for row in rows[::2]]
    )
    self.assertEqual([*by_name['one']], ['clickme', squared])
    self.assertIn('earlier run', by_name['one']['clickme'].origin)
    self.assertEqual(by_name['one'][squared].origin, '')
    of_control = by_name['control-centre']
    self.assertEqual(
      self._table(of_control['clickme']), self._table(of_control[squared])
    )
    # The time of a map is known, so that of the next can be estimated.
    explained = by_name['one'][squared].explainers['smoothgrad_squared']
    self.assertGreater(explained.seconds_per_image, 0)
    self.assertEqual(
      explained,
      results.Explained.from_json(json.loads(json.dumps(explained.to_json()))),
    )
    compared = {(c.protocol, c.control) for c in found.comparisons}
    self.assertLen(compared, 4)
    # Another order needs no measurement: the earlier results are found.
    _, again = self._measure('smoothgrad_squared', 'gradient')
    self.assertEqual(self.measured, [])
    self.assertEqual(
      again['one']['clickme'].scores, by_name['one'][squared].scores
    )
    self.assertEqual(
      again['one']['clickme.gradient'].scores, by_name['one']['clickme'].scores
    )

  def test_networks_and_controls_have_the_same_sample(self):
    said = []
    with (
      mock.patch.object(clickme, 'TWIN_IMAGES', 3),
      mock.patch.object(tqdm.tqdm, 'write', said.append),
    ):
      found, by_name = self._measure('gradient', 'smoothgrad_squared')
    name = 'clickme.smoothgrad_squared'
    rows = {row: self._table(of[name]) for row, of in by_name.items()}
    records = [[r['record'] for r in of_row] for of_row in rows.values()]
    self.assertEqual(records, [records[0]] * 3)
    self.assertLen(records[0], 3)
    self.assertLen(self._table(by_name['control-centre']['clickme']), 5)
    # The influences of 3 images average to the score of these 3 images.
    for row, key in (('one', 'smoothgrad_squared'), ('control-centre', 'none')):
      score = by_name[row][name].explainers[key].scores['specific']
      influences = [float(r['influence']) for r in rows[row]]
      self.assertAlmostEqual(score.value, np.mean(influences))
    counts = {
      c.protocol: c.n for c in found.comparisons if 'centre' in c.control
    }
    self.assertEqual(counts, {'clickme': 5, name: 3})
    (cost,) = [text for text in said if 'seconds per gradient' in text]
    self.assertIn('takes 2 gradients per image', cost)

  def test_names_of_explainers(self):
    for names, message in (
      (('gradiant',), "'gradiant'.*Did you mean gradient"),
      ((), 'has no name'),
    ):
      with self.assertRaisesRegex(protocol.SettingsError, message):
        self._measure(*names)
    found = registry.get('clickme.occlusion')
    self.assertIs(found, registry.get('clickme.occlusion'))
    self.assertEqual(found.name, 'clickme.occlusion')
    with self.assertRaisesRegex(ValueError, 'no variant'):
      registry.get('imagenet.occlusion')


def _image_of(path):
  serialized = next(tf.data.TFRecordDataset(path).as_numpy_iterator())
  example = tf.train.Example.FromString(serialized)
  return example.features.feature['image'].bytes_list.value[0]


class CeilingsTest(tf.test.TestCase):
  def test_ratios_are_added_without_measuring_again(self):
    rng = np.random.default_rng(0)
    influence = rng.normal(0.2, 0.1, 30)
    people = {
      measure: rng.normal(mean, 0.05, 30)
      for measure, mean in (
        ('split_half', 0.5),
        ('spearman_brown', 0.66),
        ('floor', 0.2),
        ('leave_one_out', 0.6),
        ('leave_one_out_shuffled', 0.3),
      )
    }
    names = [f'dog/{i}.png' for i in range(30)]
    order = rng.permutation(30)  # Images are matched by name, not by position.
    measured = measured_ceilings.MeasuredCeilings(
      'ceilings.json',
      224,
      10.0,
      False,
      {},
      {
        names[i].removesuffix('.png'): {n: v[i] for n, v in people.items()}
        for i in order
      },
      user_jackknife.Replicates(
        {name: v.mean() for name, v in people.items()},
        {
          str(i): {
            **{name: v.mean() for name, v in people.items()},
            'leave_one_out': people['leave_one_out'].mean() + change,
          }
          for i, change in enumerate((0.01, -0.02, 0.03))
        },
      ),
    )
    folder = self.get_temp_dir()
    scores.write_rows(
      os.path.join(folder, 'x.csv'),
      [
        {'file': 'f', 'record': i, 'name': n, 'group': i, 'influence': v}
        for i, (n, v) in enumerate(zip(names, influence))
      ],
    )
    rho = scores.score('spearman', influence, preprocessing='x / 255')
    stored = results.StoredResult(
      {'spearman': rho},
      {},
      'x.csv',
      explainers={
        'gradient': results.Explained({'specific': rho, 'own': rho}, [])
      },
    )
    with_ceilings = clickme.ClickMeProtocol(
      labelled_images.Dataset('x'), batch_size=1, ceilings=measured
    )
    found = with_ceilings.normalized(stored, folder)
    shown = clickme.ClickMeProtocol.scores_of(found)
    u = np.sqrt(people['spearman_brown'].mean())
    expected = influence.mean() / (
      u * (1 - people['floor'].mean() / people['split_half'].mean())
    )
    self.assertAllClose(shown['controlled'].value, expected)
    self.assertLess(shown['controlled'].low, expected)
    person = found.explainers['gradient'].scores['controlled_person'].value
    self.assertAllClose(
      person,
      influence.mean()
      / (people['leave_one_out'] - people['leave_one_out_shuffled']).mean(),
    )
    self.assertEqual(next(iter(shown)), 'controlled')

    picture, ratios, ceilings = clickme.ClickMeProtocol.sections(
      {'net': found}, []
    )
    self.assertEqual(picture.file, 'clickme_ceilings.png')
    denominator = (
      people['leave_one_out'] - people['leave_one_out_shuffled']
    ).mean()
    values = influence.mean() / (denominator + np.array([0.01, -0.02, 0.03]))
    # Efron and Tibshirani (1993), eq. 11.5.
    half = stats.t.ppf(0.975, 2) * np.sqrt(
      2 / 3 * np.sum((values - values.mean()) ** 2)
    )
    name, own, _, among, _, among_persons = ratios.rows[0]
    self.assertEqual((name, own.text), ('net', f'{influence.mean():.3f}'))
    # Leaving out a group changes nothing in this ratio.
    self.assertEqual(among, f'[{expected:.3f}, {expected:.3f}]')
    self.assertEqual(
      among_persons, f'[{person - half:.3f}, {person + half:.3f}]'
    )
    self.assertEqual(ceilings.rows[0][1].text, f'{u:.3f}')
    self.assertEqual(
      ceilings.rows[1][1].text, f'{people["leave_one_out"].mean():.3f}'
    )

    self._check_pairs(with_ceilings, folder, influence, people)

  def _check_pairs(self, with_ceilings, folder, influence, people):
    """Compares two networks with each other."""
    other = 0.5 * influence + np.random.default_rng(1).normal(0, 0.1, 30)
    rows = scores.read_rows(os.path.join(folder, 'x.csv'))
    scores.write_rows(
      os.path.join(folder, 'y.csv'),
      [{**row, 'influence': e} for row, e in zip(rows, other)],
    )
    explained = {'gradient': results.Explained({}, [])}
    networks = [
      results.ModelResults(
        name,
        {'spec': f'mg:{name}'},
        results.AdapterFacts([8, 8], 3, ''),
        {
          'clickme': results.StoredResult(
            {}, {}, f'{name}.csv', explainers=explained
          )
        },
      )
      for name in 'xy'
    ]
    found = {
      c.score: c
      for c in network_pairs.compare(
        folder, networks, [with_ceilings], [('x', 'y')]
      )
    }
    self.assertCountEqual(
      found, ['specific', 'controlled', 'controlled_person']
    )
    first, second = (
      normalization.controlled(
        e, people['split_half'], people['spearman_brown'], people['floor']
      )
      for e in (influence, other)
    )
    c = found['controlled']
    self.assertAllClose(c.difference, second.value - first.value)
    expected = stats.ttest_rel(second.values, first.values)
    self.assertAllClose(c.p, expected.pvalue)
    interval = expected.confidence_interval()
    self.assertAllClose((c.low, c.high), (interval.low, interval.high))

  def test_no_ceilings_no_ratio(self):
    stored = results.StoredResult({}, {}, 'missing.csv')
    made = clickme.ClickMeProtocol(labelled_images.Dataset('x'), batch_size=1)
    self.assertIs(made.normalized(stored, ''), stored)


class BadRecordsTest(tf.test.TestCase):
  def _write(self, *records):
    return fixtures.write(self.get_temp_dir(), 'bad.tfrecords', records)

  def test_bad_record_is_named(self):
    for bad, reason in (
      (fixtures.record(omit=['heatmap']), 'heatmap.*missing'),
      (fixtures.record(image=b'no image'), 'not a decodable image'),
      (b'nonsense', 'not a tf.train.Example'),
    ):
      path = self._write(fixtures.record(), bad)
      with self.assertRaisesRegex(
        protocol.BadDataError,
        r'bad\.tfrecords, record 1 \(counted from 0\): .*' + reason,
      ):
        _run(path)

  def test_flipped_byte_is_named(self):
    path = self._write(fixtures.record(0), fixtures.record(1))
    with open(path, 'r+b') as f:
      f.seek(100)
      byte = f.read(1)
      f.seek(100)
      f.write(bytes([byte[0] ^ 1]))
    with self.assertRaisesRegex(
      protocol.BadDataError,
      r'bad\.tfrecords, record 0 .*checksum of the record\'s data',
    ):
      _run(path)

  def test_missing_and_empty_files(self):
    with self.assertRaisesRegex(
      protocol.BadDataError, r'nowhere\* matches no file'
    ):
      _run(os.path.join(self.get_temp_dir(), 'nowhere*'))
    with self.assertRaisesRegex(protocol.BadDataError, 'does not exist'):
      _run(os.path.join(self.get_temp_dir(), 'nowhere'))
    with self.assertRaisesRegex(
      protocol.BadDataError, 'not contain any records'
    ):
      _run(self._write())

  def test_files_are_read_before_a_network_is_opened(self):
    folder = self.get_temp_dir()
    run = protocol.RunOptions(output_dir=folder)
    image = os.path.join(folder, 'image.png')
    tf.io.write_file(image, tf.io.encode_png(fixtures.pixels(0)))
    empty = os.path.join(folder, 'empty')
    tf.io.gfile.makedirs(empty)
    records = fixtures.write(folder, 'good', [fixtures.record()])
    for path, changes, reason in (
      (
        image,
        {},
        'image.png, record 0 .*: the file is a PNG image; expected a TFRec',
      ),
      (image, {'map_decoder': 'clickme'}, 'is a PNG image'),
      (f'{records},{image}', {}, 'is a PNG image'),
      (empty, {}, 'empty is a folder without files'),
      (self._write(), {}, 'not contain any records'),
      (records, {'comparison_size': 1}, '--comparison_size=1: .*at least 2'),
    ):
      options = clickme.ClickMeOptions(clickme=path, **changes)
      with self.assertRaisesRegex(ValueError, reason):
        clickme.ClickMeProtocol.from_options(options, run)
    with self.assertRaisesRegex(protocol.BadDataError, 'is a PNG image'):
      imagenet.ImageNetProtocol.from_options(
        imagenet.ImageNetOptions(imagenet=image), run
      )

  def test_another_format_is_suggested(self):
    image = tf.io.encode_png(fixtures.pixels(0)).numpy()
    path = self._write(record_writer.canonical_example(image, 1))
    with self.assertRaisesRegex(
      protocol.BadDataError,
      f'{path}, record 0 .*did you mean --map_decoder=canonical',
    ):
      _run(path)

  def test_canonical_record_without_a_map(self):
    image = tf.io.encode_png(fixtures.pixels(0)).numpy()
    path = self._write(record_writer.canonical_example(image, 1))
    with self.assertRaisesRegex(protocol.BadDataError, 'no human map'):
      _run(path, map_decoder='canonical')


if __name__ == '__main__':
  tf.test.main()
