"""Tests of the harmonized task."""

import dataclasses

from absl.testing import parameterized
import numpy as np
from scipy import stats
import tensorflow as tf, tf_keras
import tensorflow_datasets as tfds

from official.core import base_trainer
from official.core import train_utils
from official.modeling import optimization
from official.vision.configs import image_classification as stock_cfg
from official.vision.tasks import image_classification as stock_task
from official_ext.harmonization.dataloaders import labels as labels_lib
from official_ext.harmonization.tasks import (
    harmonized_image_classification as task_lib)
from tests import devices
from tests import fixtures
from tests import released


class _Recorder:
  """An optimizer that keeps the gradients and moves nothing."""

  def __init__(self, step=0):
    self.iterations = tf.constant(step, tf.int64)
    self.gradients = None

  def apply_gradients(self, gradients_and_variables):
    self.gradients = [g for g, _ in gradients_and_variables]


def _task(**kwargs):
  return task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(**kwargs).task)


def _stock_twin(task):
  """The stock task with the same fields."""
  config = stock_cfg.ImageClassificationTask(
      **{
          f.name: getattr(task.task_config, f.name)
          for f in dataclasses.fields(stock_cfg.ImageClassificationTask)
      })
  return stock_task.ImageClassificationTask(config)


def _model(task, seed=0):
  tf_keras.utils.set_random_seed(seed)
  return task.build_model()


def _batch(size=4, mapped=4, pixels=32):
  images = tf.random.stateless_normal([size, pixels, pixels, 3], [1, 2])
  human = tf.random.stateless_uniform([mapped, pixels, pixels], [3, 4])**3
  return images, {
      'labels': tf.range(size) % fixtures.CLASSES,
      'heatmaps': human,
      'heatmap_weights': tf.ones([mapped]),
      'valid': tf.ones([size]),
  }


class StockTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.product(
      labels=('one_hot', 'sparse', 'soft'), off=('weight', 'enabled'))
  def test_off_is_the_stock_task_bit_for_bit(self, labels, off):
    task = _task(**({'weight': 0.} if off == 'weight' else {'enabled': False}))
    task.task_config.losses.override({
        'one_hot': labels == 'one_hot', 'soft_labels': labels == 'soft',
        'label_smoothing': 0. if labels == 'sparse' else .1,
        'l2_weight_decay': 1e-4,
    })
    stock = _stock_twin(task)
    images, batch = _batch()
    given = batch['labels']
    if labels == 'soft':  # What the host's own mixing hands over: smoothed.
      given = tf.one_hot(given, 4) * (1. - .1) + .1 / 4
    inputs = (images, batch if off == 'weight' else given)

    results = []
    for t, step_inputs in ((task, inputs), (stock, (images, given))):
      model, optimizer = _model(t), tf_keras.optimizers.SGD(.1, .9)
      optimizer.build(model.trainable_variables)
      metrics = t.build_metrics(training=True)
      step = tf.function(t.train_step)
      losses = [
          step(step_inputs, model, optimizer, metrics)['loss'] for _ in range(3)
      ]
      results.append(losses + model.variables + [m.result() for m in metrics])
    self.assertLen(results[0], len(results[1]))
    for ours, theirs in zip(*results):
      self.assertAllEqual(ours, theirs)

  def test_gradients_of_weight_zero_are_the_stock_ones(self):
    task = _task(weight=0.)
    stock = _stock_twin(task)
    images, batch = _batch()
    found = []
    for t, inputs in ((task, (images, batch)), (stock,
                                                (images, batch['labels']))):
      model, recorder = _model(t), _Recorder()
      t.train_step(inputs, model, recorder)
      found.append(recorder.gradients)
    self.assertNotEmpty(found[0])
    for ours, theirs in zip(*found):
      self.assertAllEqual(ours, theirs)

  def test_disabled_reads_and_evaluates_as_the_stock_task(self):
    path = fixtures.write_numbered(self.get_temp_dir(), 'plain', 6)
    task = _task(enabled=False, plain=path, plain_validation=path)
    stock = _stock_twin(task)
    params = task.task_config.validation_data
    (images, labels), = task.build_inputs(params)
    (stock_images, stock_labels), = stock.build_inputs(params)
    self.assertAllEqual(images, stock_images)
    self.assertAllEqual(labels, stock_labels)
    results = []
    for t in (task, stock):
      metrics = t.build_metrics(training=False)
      logs = t.validation_step((images, labels), _model(t), metrics)
      results.append((logs['loss'], {m.name: m.result() for m in metrics}))
    self.assertAllEqual(results[0][0], results[1][0])
    self.assertAllEqual(results[0][1], results[1][1])


class TrainStepTest(tf.test.TestCase, parameterized.TestCase):

  def test_gradients_equal_released(self):
    theirs = released.load('training.loss')
    task = _task(weight=1.)
    task.task_config.losses.override({'label_smoothing': .1,
                                      'l2_weight_decay': 0.})
    images, batch = _batch()
    batch['heatmap_weights'] = tf.constant([1., 0., 1., 1.])
    model, recorder = _model(task), _Recorder()
    task.train_step((images, batch), model, recorder)
    model = _model(task)
    expected = theirs.harmonizer_loss(
        model, images, batch['heatmap_weights'],
        tf.one_hot(batch['labels'], fixtures.CLASSES), batch['heatmaps'],
        lambda_weights=0.)
    without = _Recorder()
    task.task_config.harmonization.weight = 0.
    task.train_step((images, batch), _model(task), without)
    self.assertLen(expected, len(recorder.gradients))
    difference, norm, effect = 0., 0., 0.
    for ours, released_gradient, stock in zip(recorder.gradients, expected,
                                              without.gradients):
      difference += float(tf.reduce_sum((ours - released_gradient)**2))
      norm += float(tf.reduce_sum(released_gradient**2))
      effect += float(tf.reduce_sum((stock - released_gradient)**2))
    self.assertLess((difference / norm)**.5, 1e-4)
    # The loss matters here: without it the gradient is another one.
    self.assertGreater((effect / norm)**.5, 1e-2)

  @parameterized.parameters('one_hot', 'sparse', 'soft')
  def test_losses_are_logged_and_add_up(self, labels):
    task = _task(weight=3., mapped_fraction=.5)
    task.task_config.losses.override({
        'one_hot': labels == 'one_hot', 'soft_labels': labels == 'soft'})
    inputs = _batch(mapped=2)
    if labels == 'soft':
      inputs[1]['labels'] = tf.one_hot(inputs[1]['labels'], 4)
    metrics = task.build_metrics(training=True)
    logs = task.train_step(inputs, _model(task), _Recorder(), metrics)
    found = {m.name: float(m.result()) for m in metrics}
    self.assertContainsSubset(
        {'classification_loss', 'harmonization_loss', 'accuracy'}, set(found))
    self.assertGreater(found['harmonization_loss'], 0.)
    self.assertAllClose(
        logs['loss'],
        found['classification_loss'] + 3. * found['harmonization_loss'])

  def test_batch_normalization_counts_images_without_maps(self):
    found = []
    for normalization in ('batch', 'mapped'):
      task = _task(normalization=normalization, mapped_fraction=.5)
      metrics = task.build_metrics(training=True)
      task.train_step(_batch(mapped=2), _model(task), _Recorder(), metrics)
      found += [m.result() for m in metrics if m.name == 'harmonization_loss']
    self.assertAllClose(2. * found[0], found[1])

  def test_warm_up(self):
    task = _task(weight=2., warmup_steps=10)
    metrics = task.build_metrics(training=True)
    totals = []
    for step in (0, 5, 10, 50):
      logs = task.train_step(_batch(), _model(task), _Recorder(step), metrics)
      totals.append(float(logs['loss']))
    losses = {m.name: float(m.result()) for m in metrics}
    expected = [
        losses['classification_loss'] + w * losses['harmonization_loss']
        for w in (0., 1., 2., 2.)
    ]
    self.assertAllClose(totals, expected, rtol=1e-5)

  def test_xla_equals_graph(self):
    found = []
    for compiled in (False, True):
      task = _task(weight=1.)
      model, recorder = _model(task), _Recorder()

      @tf.function(jit_compile=compiled)
      def gradients(inputs, task=task, model=model, recorder=recorder):
        task.train_step(inputs, model, recorder)
        return recorder.gradients

      found.append(gradients(_batch()))
    difference, norm = (
        float(tf.linalg.global_norm(t))
        for t in ([a - b for a, b in zip(*found)], found[0]))
    self.assertLess(difference / norm, 1e-3)

  def test_bfloat16_compiles_and_learns(self):
    tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = _task(weight=1.)
    model = _model(task)
    optimizer = tf_keras.optimizers.SGD(.05)
    optimizer.build(model.trainable_variables)
    step = tf.function(
        lambda inputs: task.train_step(inputs, model, optimizer)['loss'],
        jit_compile=True)
    losses = [float(step(_batch())) for _ in range(8)]
    self.assertTrue(np.all(np.isfinite(losses)))
    self.assertLess(losses[-1], losses[0])

  def test_interval_takes_every_kth_step_k_times_as_strongly(self):
    lazy, plain = _task(weight=2., interval=3), _task(weight=6.)
    off = _task(weight=0.)

    def gradients(task, step):
      model, recorder = _model(task), _Recorder(step)

      @tf.function
      def run(inputs):
        task.train_step(inputs, model, recorder)
        return recorder.gradients

      return run(_batch())

    for step, twin in ((0, plain), (1, off), (2, off), (3, plain)):
      for ours, theirs in zip(gradients(lazy, step), gradients(twin, step)):
        self.assertAllClose(ours, theirs, rtol=1e-4, atol=1e-6)

  @parameterized.parameters(False, True)
  def test_interval_is_one_compiled_step(self, compiled):
    task = _task(weight=1., interval=2)
    model, optimizer = _model(task), tf_keras.optimizers.SGD(.01)
    optimizer.build(model.trainable_variables)
    metrics = task.build_metrics(training=True)
    step = tf.function(
        lambda inputs: task.train_step(inputs, model, optimizer, metrics),
        jit_compile=compiled)
    values = []
    for _ in range(4):
      for metric in metrics:
        metric.reset_states()
      step(_batch())
      values.append([float(m.result()) for m in metrics
                     if m.name == 'harmonization_loss'][0])
    self.assertEqual(step.experimental_get_tracing_count(), 1)
    self.assertGreater(min(values[0], values[2]), 0.)
    self.assertEqual((values[1], values[3]), (0., 0.))

  def test_float16_scales_both_gradients(self):
    tf_keras.mixed_precision.set_global_policy('mixed_float16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = _task(weight=1.)
    model = _model(task)
    # Input gradients that float16 cannot hold without a scale.
    weights = model.layers[-1].kernel
    weights.assign(weights * 1e-6)
    images, batch = _batch()
    found = {}
    for name, scale in (('scaled', 2.**14), ('not', 1.)):
      _, maps = task_lib.saliency_ops.saliency_maps(
          model, images, tf.one_hot(batch['labels'], 4), training=True,
          loss_scale=tf.constant(scale))
      found[name] = float(tf.reduce_mean(tf.cast(maps != 0., tf.float32)))
    self.assertGreater(found['scaled'], .9)
    self.assertLess(found['not'], .5)

    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
        tf_keras.optimizers.SGD(.05))
    model = _model(task)
    optimizer.build(model.trainable_variables)
    step = tf.function(
        lambda inputs: task.train_step(inputs, model, optimizer)['loss'])
    losses = [float(step(_batch())) for _ in range(8)]
    self.assertTrue(np.all(np.isfinite(losses)))
    self.assertLess(losses[-1], losses[0])

  def test_float16_with_a_moving_average_is_refused(self):
    task = _task()
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
        optimization.ExponentialMovingAverage(
            tf_keras.optimizers.legacy.SGD(.1)))
    with self.assertRaisesRegex(ValueError, 'optimizer_config.ema.*bfloat16'):
      task.train_step(_batch(), _model(task), optimizer)

  def test_wrong_configuration_stops_at_once(self):
    with self.assertRaisesRegex(ValueError, 'task.harmonization.levels is 0'):
      _task(levels=0)


class InputsTest(tf.test.TestCase, parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.get_temp_dir()
    self.mapped = fixtures.write_numbered(folder, 'mapped.tfrecords', 7)
    self.plain = fixtures.write_numbered(folder, 'plain.tfrecords', 5)

  @parameterized.parameters((1., 4), (.5, 2), (.2, 1))
  def test_training_shapes_are_static(self, fraction, rows):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=fraction)
    dataset = task.build_inputs(task.task_config.train_data)
    images, batch = dataset.element_spec
    self.assertEqual(images.shape, [4, 32, 32, 3])
    self.assertEqual(
        {k: v.shape.as_list() for k, v in batch.items()}, {
            'labels': [4], 'heatmaps': [rows, 32, 32],
            'heatmap_weights': [rows], 'valid': [4], 'bad_records': [rows]})
    images, batch = next(iter(dataset))
    self.assertAllEqual(batch['heatmap_weights'], np.ones(rows))
    self.assertAllInRange(batch['heatmaps'], 0., 1.)

  def test_mixing_keeps_labels_unsmoothed_in_both_sources(self):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=.5)
    mixup = dict(mixup_alpha=1., cutmix_alpha=0., label_smoothing=.1)
    task.task_config.override({
        'losses': {'one_hot': False, 'soft_labels': True},
        'train_data': {'mixup_and_cutmix': mixup},
        'mapped_data': {'mixup_and_cutmix': mixup}})
    _, batch = next(iter(task.build_inputs(task.task_config.train_data)))
    labels = batch['labels'].numpy()
    self.assertAllClose(labels.sum(-1), np.ones(4))
    # Two classes at most; smoothing would leave no zeros.
    self.assertAllInRange((labels > 0).sum(-1), 1, 2)
    smoothed = task._loss_labels(batch['labels'])
    self.assertAllClose(smoothed, labels * .9 + .1 / 4)

  def test_the_same_seed_gives_the_same_batches(self):
    task = _task(mapped=self.mapped)
    task.task_config.mapped_data.override({'seed': 3, 'deterministic': True})
    batches = []
    for _ in range(2):
      dataset = task.build_inputs(task.task_config.train_data)
      batches.append([images for images, _ in dataset.take(3)])
    self.assertAllEqual(batches[0], batches[1])
    self.assertNotAllClose(batches[0][0], batches[0][1])

  @parameterized.parameters(
      (dict(leave_out=['heatmap']), 'field heatmap .* is missing'),
      (dict(leave_out=['label']), 'field label is missing'),
      (dict(image=b'?'), 'field image is not a decodable'),
      (dict(label=4), 'label 4 .*0..3'))
  def test_bad_records_are_named(self, change, reason):
    path = fixtures.write(self.get_temp_dir(), 'bad.tfrecords',
                          [fixtures.record(), fixtures.record(**change)])
    task = _task(mapped=path, validation=path)
    for params in (task.task_config.train_data,
                   task.task_config.validation_data):
      with self.assertRaisesRegex(tf.errors.InvalidArgumentError,
                                  f'bad.tfrecords, record 1 .*{reason}'):
        for _ in task.build_inputs(params).take(3):
          pass

  @parameterized.parameters(False, True)
  def test_plain_labels_outside_the_range_name_the_source(self, mixed):
    path = fixtures.write(self.get_temp_dir(), 'wrong.tfrecords',
                          [fixtures.record(label=9)] * 4)
    task = _task(mapped=self.mapped, plain=path, mapped_fraction=.5)
    if mixed:
      mixup = dict(mixup_alpha=1., cutmix_alpha=0., label_smoothing=.1)
      task.task_config.override({
          'losses': {'one_hot': False, 'soft_labels': True},
          'train_data': {'mixup_and_cutmix': mixup}})
    with self.assertRaisesRegex(tf.errors.InvalidArgumentError,
                                'task.train_data.*wrong.tfrecords.*0..3'):
      next(iter(task.build_inputs(task.task_config.train_data)))

  def _imagenet(self, split, labels, offset, classes, **fields):
    """Labels of the batches of a plain source of ImageNet's classes."""
    task = fixtures.experiment(mapped=self.mapped, mapped_fraction=.5).task
    task.model.num_classes = classes
    task.override({f'{split}_label_offset': offset})
    # The host asks train_data for the fields of both.
    task.train_data.override({
        'image_field_key': 'image/encoded',
        'label_field_key': 'image/class/label'})
    getattr(task, f'{split}_data').override(fields)
    task.mapped_data.label_offset = labels_lib.OFFSETS[classes]
    task.mapped_validation_data.label_offset = labels_lib.OFFSETS[classes]

    def as_dataset(_, *args, **kwargs):
      del args, kwargs
      return tf.data.Dataset.from_tensor_slices({
          'image': np.zeros((len(labels), 20, 20, 3), np.uint8),
          'label': np.array(labels, np.int64)}).repeat(4)

    if not fields:
      getattr(task, f'{split}_data').override({
          'tfds_name': 'imagenet2012', 'tfds_split': 'train',
          'input_path': ''})
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
      task = task_lib.HarmonizedImageClassificationTask(task)
      params = getattr(task.task_config, f'{split}_data')
      found = set()
      # Rows of the mapped source, which come first in training, are not asked.
      start = 2 if split == 'train' else 0
      for _, batch in task.build_inputs(params).take(8):
        rows = batch['labels'][start:]
        if rows.dtype.is_floating:
          rows = tf.argmax(rows, -1)
        found |= set(rows.numpy()[batch['valid'][start:] > 0].tolist())
      return found

  @parameterized.product(split=('train', 'validation'),
                         classes_and_offset=((1001, 1), (1000, 0)))
  def test_tfds_imagenet(self, split, classes_and_offset):
    classes, offset = classes_and_offset
    found = self._imagenet(split, [0, 1, 998, 999], offset, classes)
    self.assertEqual(found, {label + offset for label in (0, 1, 998, 999)})

  @parameterized.product(split=('train', 'validation'),
                         classes_and_offset=((1001, 0), (1000, -1)))
  def test_imagenet_of_the_host(self, split, classes_and_offset):
    classes, offset = classes_and_offset
    path = self._write_plain(1, 2, 999, 1000)
    found = self._imagenet(split, None, offset, classes, input_path=path)
    self.assertEqual(found, {label + offset for label in (1, 2, 999, 1000)})

  @parameterized.parameters((1001, 0, (0, 3)), (1001, 1, (1000, 1)),
                            (1000, 0, (1000, 1)), (1000, -1, (0, 1)))
  def test_wrong_offset_stops(self, classes, offset, labels):
    path = self._write_plain(*labels * 2)
    with self.assertRaisesRegex(
        tf.errors.InvalidArgumentError,
        'task.train_data.*task.train_label_offset.*outside'):
      self._imagenet('train', None, offset, classes, input_path=path)

  def test_missing_label_does_not_become_a_class(self):
    path = self._write_plain(1, 2, 3, None)
    with self.assertRaisesRegex(tf.errors.InvalidArgumentError,
                                'task.train_data.*without a label'):
      self._imagenet('train', None, 1, 1001, input_path=path)

  def test_offset_comes_before_mixing(self):
    path = self._write_plain(0, 1, 2, 999)
    task = _task(mapped=self.mapped, plain=path, mapped_fraction=.5)
    mixup = dict(mixup_alpha=1., cutmix_alpha=1., label_smoothing=.1)
    task.task_config.override({
        'model': {'num_classes': 1001}, 'train_label_offset': 1,
        'losses': {'one_hot': False, 'soft_labels': True},
        'mapped_data': {'label_offset': 1},
        'train_data': {'mixup_and_cutmix': mixup,
                       'image_field_key': 'image/encoded',
                       'label_field_key': 'image/class/label'}})
    found = set()
    for _, batch in task.build_inputs(task.task_config.train_data).take(8):
      rows = batch['labels'][2:]
      self.assertAllClose(tf.reduce_sum(rows, -1), [1., 1.])
      found |= set(np.flatnonzero(np.sum(rows, 0)).tolist())
    self.assertEqual(found, {1, 2, 3, 1000})

  def _write_plain(self, *labels):
    """Records with Model Garden's fields; None leaves the label out."""
    serialized = []
    for label in labels:
      example = tf.train.Example()
      example.features.feature['image/encoded'].bytes_list.value.append(
          tf.io.encode_jpeg(fixtures.pixels(1)).numpy())
      if label is not None:
        example.features.feature['image/class/label'].int64_list.value.append(
            label)
      serialized.append(example.SerializeToString())
    return fixtures.write(self.get_temp_dir(), 'imagenet.tfrecords', serialized)

  def test_effective_mapped_fraction_is_logged(self):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=.3)
    with self.assertLogs(level='INFO') as logs:
      task.build_inputs(task.task_config.train_data)
    self.assertRegex(
        ' '.join(logs.output),
        r'Mapped fraction: 1 of the 4 images .* 0.25 \(.*_fraction is 0.3')

  def test_nothing_to_evaluate_on(self):
    task = _task()
    with self.assertRaisesRegex(ValueError,
                                'mapped_validation_data.input_path'):
      task.build_inputs(task.task_config.validation_data)


class BadRecordsTest(tf.test.TestCase, parameterized.TestCase):

  def _config(self, **kwargs):
    bad = fixtures.record(leave_out=['heatmap'])
    good = [fixtures.record(i, i % 4) for i in range(4)]
    path = fixtures.write(self.get_temp_dir(), 'some_bad.tfrecords',
                          [bad, good[0], good[1], bad, b'?', good[2], good[3]])
    config = fixtures.experiment(mapped=path, validation=path, **kwargs)
    for data in (config.task.mapped_data, config.task.mapped_validation_data):
      data.on_bad_record = 'skip'
    config.task.mapped_data.override(
        {'shuffle_buffer_size': 1, 'deterministic': True})
    config.trainer.train_steps = 100
    return config

  @parameterized.parameters((1., 1), (0., 1), (0., 2))
  def test_training_logs_the_count_of_all_replicas(self, weight, replicas):
    config = self._config(weight=weight, batch_size=4)
    strategy = (devices.two_replicas() if replicas == 2 else
                tf.distribute.get_strategy())
    with strategy.scope():
      task = task_lib.HarmonizedImageClassificationTask(config.task)
      trainer = base_trainer.Trainer(
          config, task, model=_model(task),
          optimizer=train_utils.create_optimizer(task, config), evaluate=False)
      # Every pass over the file gives four good records and skips three.
      for _ in range(2):
        logs = trainer.train(tf.constant(3))
        self.assertEqual(float(np.asarray(logs['bad_records'])), 9.)

  @parameterized.parameters(2, 3, 8)
  def test_evaluation_scores_the_rest(self, batch_size):
    config = self._config(batch_size=batch_size)
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    trainer = base_trainer.Trainer(
        config, task, model=_model(task),
        optimizer=train_utils.create_optimizer(task, config), train=False)
    logs = {k: float(np.asarray(v))
            for k, v in trainer.evaluate(tf.constant(-1)).items()}
    self.assertEqual(
        (logs['bad_records'], logs['alignment_n'],
         logs['alignment_n_undefined']), (3., 4., 0.))
    config.task.mapped_validation_data.input_path = fixtures.write_numbered(
        self.get_temp_dir(), 'good.tfrecords', 4)
    expected = trainer.evaluate(tf.constant(-1))
    for name in ('alignment', 'clickme_accuracy'):
      self.assertAllClose(logs[name], expected[name])

  def test_no_count_where_nothing_is_skipped(self):
    task = _task(validation='some')
    for training in (True, False):
      names = {m.name for m in task.build_metrics(training)}
      self.assertNotIn('bad_records', names)


class EvaluationTest(tf.test.TestCase, parameterized.TestCase):

  def _evaluate(self, strategy=None, **kwargs):
    """The host's evaluation logs, on an untrained network."""
    config = fixtures.experiment(**kwargs)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
      task = task_lib.HarmonizedImageClassificationTask(config.task)
      model = _model(task)
      trainer = base_trainer.Trainer(
          config, task, model=model,
          optimizer=train_utils.create_optimizer(task, config), train=False)
      logs = trainer.evaluate(tf.constant(-1))
    return task, model, {k: float(np.asarray(v)) for k, v in logs.items()}

  def _files(self):
    folder = self.get_temp_dir()
    return dict(
        validation=fixtures.write_numbered(folder, 'mapped.tfrecords', 7),
        plain_validation=fixtures.write(
            folder, 'plain.tfrecords',
            [fixtures.record(50 + i, i % 4) for i in range(5)]))

  def test_scores_are_those_of_every_image(self):
    task, model, logs = self._evaluate(**self._files(), batch_size=4)
    rho, hits, plain_hits, losses = [], [], [], []
    params = task.task_config.validation_data
    for images, batch in task.build_inputs(params):
      labels = tf.one_hot(batch['labels'], fixtures.CLASSES)
      with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
        score = tf.reduce_sum(logits * labels)
      saliency = np.abs(tape.gradient(score, images)).max(-1)
      for i in np.flatnonzero(batch['valid']):
        hit = np.argmax(logits[i]) == batch['labels'][i]
        if batch['heatmap_weights'][i]:
          rho.append(stats.spearmanr(saliency[i].ravel(),
                                     batch['heatmaps'][i].numpy().ravel())[0])
          hits.append(hit)
        else:
          plain_hits.append(hit)
          losses.append(-tf.nn.log_softmax(logits[i])[batch['labels'][i]])
    self.assertEqual((len(rho), len(plain_hits)), (7, 5))
    decay = tf.add_n(model.losses)
    expected = {
        'alignment': np.mean(rho), 'alignment_spearman': np.mean(rho),
        'alignment_n': 7., 'alignment_n_undefined': 0.,
        'clickme_accuracy': np.mean(hits), 'accuracy': np.mean(plain_hits),
        'accuracy_n': 5., 'validation_loss': np.mean(losses) + decay,
    }
    self.assertAllClose({k: logs[k] for k in expected}, expected, rtol=1e-4)

  def test_scores_do_not_depend_on_batches_or_replicas(self):
    files = self._files()
    reference = self._evaluate(**files, batch_size=16)[2]
    # 7 and 5 images: the second replica runs out of either source first.
    for strategy, size in ((None, 3), (devices.two_replicas(), 4)):
      logs = self._evaluate(strategy, **files, batch_size=size)[2]
      self.assertAllClose(logs, reference, rtol=1e-4, msg=f'{strategy} {size}')

  def test_scores_without_data_are_not_there(self):
    files = self._files()
    mapped = self._evaluate(validation=files['validation'])[2]
    self.assertNotIn('accuracy', mapped)
    self.assertIn('alignment', mapped)
    plain = self._evaluate(plain_validation=files['plain_validation'])[2]
    self.assertIn('accuracy', plain)
    self.assertNotIn('alignment', plain)

  def test_undefined_scores_are_counted_apart(self):
    flat = tf.io.encode_png(np.zeros((40, 48, 1), np.uint8)).numpy()
    path = fixtures.write(
        self.get_temp_dir(), 'flat.tfrecords',
        [fixtures.record(i, heatmap=flat if i == 1 else None)
         for i in range(3)])
    logs = self._evaluate(validation=path, ceiling=.5)[2]
    self.assertEqual((logs['alignment_n'], logs['alignment_n_undefined']),
                     (2., 1.))
    self.assertAllClose(logs['alignment'], 2. * logs['alignment_spearman'])
    self.assertTrue(np.isfinite(logs['alignment']))

  def test_the_gradient_pass_runs_on_mapped_batches_alone(self):
    config = fixtures.experiment(**self._files())
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    metrics = task.build_metrics(training=False)
    step = tf.function(task.validation_step).get_concrete_function(
        next(iter(task.build_inputs(config.task.validation_data))),
        _model(task), metrics)
    outside = {op.type for op in step.graph.get_operations()}
    self.assertIn('If', outside)
    self.assertNotIn('Conv2DBackpropInput', outside)


if __name__ == '__main__':
  tf.test.main()
