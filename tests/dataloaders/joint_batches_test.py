# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of mixing and of joining two datasets."""

import numpy as np
from official.vision.configs import common
import tensorflow as tf

from official_ext.harmonization.dataloaders import joint_batches
from official_ext.harmonization.dataloaders import mixing


def _batch(size=6, classes=5):
  """Returns images and maps that encode the one-hot label in every pixel."""
  labels = tf.one_hot(tf.range(size) % classes, classes)
  # Channel c of an image, and row c of a map, have the label's entry c.
  images = tf.tile(labels[:, tf.newaxis, tf.newaxis], [1, 5, 3, 1])
  heatmaps = tf.tile(labels[:, :, tf.newaxis], [1, 1, 3])
  return images, {
    'labels': labels,
    'heatmaps': heatmaps,
    'heatmap_weights': tf.ones([size]),
  }


class MixupTest(tf.test.TestCase):
  def test_one_coefficient_for_image_label_and_map(self):
    images, batch = _batch()
    mixed, result = mixing.mixup(images, batch, [1, 2], alpha=1.0)
    self.assertNotAllClose(mixed, images)
    self.assertAllClose(mixed[:, 0, 0], result['labels'])
    self.assertAllClose(result['heatmaps'][:, :, 0], result['labels'])
    self.assertAllClose(tf.reduce_sum(result['labels'], -1), tf.ones([6]))
    self.assertAllClose(result['heatmap_weights'], tf.ones([6]))

  def test_partner_is_the_mirror_position(self):
    images, batch = _batch(size=5)
    _, result = mixing.mixup(images, batch, [1, 2], alpha=1.0)
    labels = result['labels'].numpy()
    for i in range(5):
      others = np.delete(labels[i], [i, 4 - i])
      self.assertAllEqual(others, np.zeros_like(others))

  def test_coefficients_follow_beta(self):
    # Row i mixes i with its mirrored position, so entry i is the coefficient.
    size = 2000
    labels = tf.eye(size)
    for alpha in (0.2, 1.0):
      _, result = mixing.mixup(
        tf.zeros([size, 1, 1, 1]), {'labels': labels}, [3, 4], alpha=alpha
      )
      coefficients = np.diag(result['labels'])
      self.assertAllClose(coefficients.mean(), 0.5, atol=0.03)
      # Var Beta(a, a) = 1 / (4 (2a + 1)).
      self.assertAllClose(
        coefficients.var(), 0.25 / (2 * alpha + 1), atol=0.015
      )

  def test_probability_zero_changes_nothing(self):
    images, batch = _batch()
    mixed, result = mixing.mixup(images, batch, [1, 2], alpha=1.0, prob=0.0)
    self.assertAllEqual(mixed, images)
    self.assertAllEqual(result['labels'], batch['labels'])


class CutmixTest(tf.test.TestCase):
  def test_image_and_map_are_cut_by_the_same_box(self):
    rng = np.random.default_rng(0)
    maps = tf.constant(rng.uniform(size=(6, 12, 20)), tf.float32)
    images = tf.tile(maps[..., tf.newaxis], [1, 1, 1, 3])
    cut = tf.function(
      lambda seed: mixing.cutmix(images, {'heatmaps': maps}, seed, alpha=1.0)
    )
    changed = 0
    for seed in range(200):
      mixed, result = cut(tf.constant([seed, 1]))
      self.assertAllEqual(mixed[..., 0], result['heatmaps'])
      pasted = (mixed[..., 0] != maps).numpy()
      changed += pasted.any(axis=(1, 2)).sum()
      self.assertAllEqual(
        result['heatmaps'], np.where(pasted, maps[::-1], maps)
      )
      for one in pasted:
        rows, columns = one.any(axis=1), one.any(axis=0)
        self.assertAllEqual(one, np.outer(rows, columns))
        for line in (rows, columns):
          self.assertLessEqual(np.abs(np.diff(np.int32(line))).sum(), 2)
    self.assertGreater(changed, 600)

  def test_label_and_weight_follow_the_area(self):
    labels = tf.eye(6)
    images = tf.tile(labels[:, tf.newaxis, tf.newaxis], [1, 16, 16, 1])
    # The first three images have a map, and their partners do not.
    weights = tf.constant([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    for seed in range(50):
      mixed, result = mixing.cutmix(
        images,
        {'labels': labels, 'heatmap_weights': weights},
        [seed, 1],
        alpha=1.0,
      )
      area = tf.reduce_mean(mixed, [1, 2])
      self.assertAllClose(result['labels'], area)
      self.assertAllClose(
        result['heatmap_weights'], tf.reduce_sum(area[:, :3], -1)
      )

  def test_uncut_area_follows_beta(self):
    # Without clipping at the border, the covered fraction of a box would be
    # 1 - Beta(1, 1); clipping reduces its mean to less than a half.
    images, labels = tf.zeros([3000, 32, 32, 1]), tf.eye(3000)
    _, result = mixing.cutmix(images, {'labels': labels}, [3, 4], alpha=1.0)
    covered = 1.0 - np.diag(result['labels'])
    # A side s at a uniform position covers s (1 - s / 4) of the axis; squared
    # and averaged over s^2 uniform in [0, 1]: 1/2 - 1/5 + 1/48.
    self.assertAllClose(covered.mean(), 1 / 2 - 1 / 5 + 1 / 48, atol=0.02)

  def test_mix_chooses(self):
    # Large enough that empty boxes are rare.
    images = tf.tile(tf.eye(6)[:, tf.newaxis, tf.newaxis], [1, 32, 32, 1])
    batch = {'labels': tf.eye(6)}

    def kinds(**options):
      found = set()
      mix = tf.function(
        lambda seed: mixing.mix(
          images, batch, seed, common.MixupAndCutmix(**options)
        )[0]
      )
      for seed in range(60):
        mixed = mix(tf.constant([seed, 1])).numpy()
        if np.array_equal(mixed, images):
          found.add('none')
        else:
          found.add(
            'cutmix' if set(np.unique(mixed)) <= {0.0, 1.0} else 'mixup'
          )
      return found

    self.assertEqual(kinds(), {'mixup', 'cutmix'})
    self.assertEqual(kinds(mixup_alpha=0.0, prob=0.5), {'cutmix', 'none'})
    self.assertEqual(kinds(cutmix_alpha=0.0), {'mixup'})
    self.assertEqual(kinds(switch_prob=0.0), {'mixup'})
    self.assertEqual(kinds(mixup_alpha=0.0, cutmix_alpha=0.0), {'none'})


class SourcesTest(tf.test.TestCase):
  def test_mapped_rows(self):
    for batch_size, fraction, rows in (
      (64, 1.0, 64),
      (64, 0.2, 13),
      (8, 0.05, 1),
      (1, 0.2, 1),
    ):
      self.assertEqual(joint_batches.rows_with_map(batch_size, fraction), rows)

  def test_training_puts_mapped_rows_first(self):
    images, batch = _batch(size=2)
    mapped = tf.data.Dataset.from_tensors((images, batch))
    plain = tf.data.Dataset.from_tensors(
      (images[:1] * 0.0 - 1.0, batch['labels'][:1] * 0.0)
    )
    dataset = joint_batches.join_for_training(mapped, plain)
    spec_images, spec = dataset.element_spec
    self.assertEqual(spec_images.shape, [3, 5, 3, 5])
    self.assertEqual(spec['heatmaps'].shape, [2, 5, 3])
    self.assertEqual(spec['valid'].shape, [3])
    ((joined, result),) = dataset
    self.assertAllEqual(joined[:, 0, 0, 0], [1.0, 0.0, -1.0])
    self.assertAllEqual(tf.reduce_sum(result['labels'], -1), [1.0, 1.0, 0.0])
    self.assertAllEqual(result['valid'], [1.0, 1.0, 1.0])
    self.assertAllEqual(result['bad_records'], [0.0, 0.0])

  def test_training_hands_counts_of_bad_records_on(self):
    images, batch = _batch(size=2)
    mapped = tf.data.Dataset.from_tensors(
      (images, {**batch, 'bad_records': tf.constant([2.0, 0.0])})
    )
    ((_, result),) = joint_batches.join_for_training(mapped, None)
    self.assertAllEqual(result['bad_records'], [2.0, 0.0])

  def test_evaluation_keeps_blank_rows_blank(self):
    images, batch = _batch(size=3)
    batch.update(
      bad_records=tf.constant([0.0, 1.0, 0.0]),
      valid=tf.constant([1.0, 0.0, 1.0]),
    )
    mapped = tf.data.Dataset.from_tensors((images, batch))
    plain = tf.data.Dataset.from_tensors((images[:2], batch['labels'][:2]))
    batches = [
      b for _, b in joint_batches.join_for_evaluation(mapped, plain, 4)
    ]
    self.assertAllEqual(
      [b['valid'] for b in batches], [[1, 1, 0, 0], [1, 0, 1, 0]]
    )
    self.assertAllEqual(
      [b['bad_records'] for b in batches], [[0, 0, 0, 0], [0, 1, 0, 0]]
    )

  def test_evaluation_counts_every_image_once(self):
    images, batch = _batch(size=5)
    mapped = tf.data.Dataset.from_tensor_slices((images, batch)).batch(3)
    plain = tf.data.Dataset.from_tensor_slices(
      (images[:4], batch['labels'][:4])
    ).batch(3)
    dataset = joint_batches.join_for_evaluation(mapped, plain, batch_size=3)
    self.assertEqual(dataset.element_spec[1]['heatmaps'].shape, [3, 5, 3])
    valid, weights = [], []
    for joined, result in dataset:
      self.assertEqual(joined.shape, [3, 5, 3, 5])
      valid.append(result['valid'].numpy().tolist())
      weights.append(result['heatmap_weights'].numpy().tolist())
    self.assertEqual(valid, [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    self.assertEqual(weights, [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]])

  def test_evaluation_serves_all_replicas_to_the_end(self):
    images, batch = _batch(size=5)
    mapped = tf.data.Dataset.from_tensor_slices((images, batch)).batch(2)
    dataset = joint_batches.join_for_evaluation(mapped, None, 2, replicas=4)
    valid = [float(tf.reduce_sum(b['valid'])) for _, b in dataset]
    # Three batches, and enough empty ones for a full step of four replicas.
    self.assertEqual(valid, [2, 2, 1, 0, 0, 0])
    with self.assertRaisesRegex(
      ValueError, 'task.mapped_validation_data.input_path'
    ):
      joint_batches.join_for_evaluation(None, None, 2)


if __name__ == '__main__':
  tf.test.main()
