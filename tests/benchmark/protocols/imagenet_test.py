# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the ImageNet protocol."""

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark.protocols import imagenet
from official_ext.harmonization.data.records import record_writer
from testing import fixtures
from tests.benchmark import fakes


class ImageNetTest(tf.test.TestCase):
  def test_central_crop_and_model_gardens_labels(self):
    pixels = [fixtures.pixels(i, (64, 48)) for i in range(3)]
    path = fixtures.write(
      self.get_temp_dir(),
      'valid.tfrecords',
      [
        record_writer.canonical_example(tf.io.encode_png(p).numpy(), i + 1)
        for i, p in enumerate(pixels)
      ],
    )
    adapter = fakes.Adapter(classes=12)
    # Model Garden's crop keeps the central 87.5 % of the shorter side.
    crops = [tf.image.resize(p[11:53, 3:45], [16, 16]) for p in pixels]
    expected = adapter.logits(adapter.preprocess(tf.stack(crops).numpy()))
    source = labelled_images.Dataset(
      path,
      map_decoder='canonical',
      label_offset=-1,
      has_maps=False,
      center_crop=True,
    )
    counts = []
    found = imagenet.ImageNetProtocol(source, 2).run(adapter, counts.append)
    self.assertEqual([r['label'] for r in found.rows], [0, 1, 2])
    self.assertEqual(
      [r['prediction'] for r in found.rows], list(expected.argmax(-1))
    )
    self.assertEqual(counts, [2, 1])
    self.assertEqual(
      found.scores[0].value, np.mean(expected.argmax(-1) == np.arange(3))
    )
    top5 = [label in np.argsort(row)[-5:] for label, row in enumerate(expected)]
    self.assertEqual([bool(r['top5']) for r in found.rows], top5)
    self.assertEqual(found.scores[1].name, 'top5')
    self.assertEqual(found.scores[1].value, np.mean(top5))
    self.assertEqual({s.interval_method for s in found.scores}, {'Wilson'})

  def test_label_zero_is_the_background(self):
    image = tf.io.encode_png(fixtures.pixels(0)).numpy()
    path = fixtures.write(
      self.get_temp_dir(),
      'zero.tfrecords',
      [record_writer.canonical_example(image, 0)],
    )
    source = labelled_images.Dataset(
      path, map_decoder='canonical', label_offset=-1, has_maps=False
    )
    with self.assertRaisesRegex(ValueError, 'record 0 .*label 0'):
      imagenet.ImageNetProtocol(source, 2).run(fakes.Adapter(), lambda n: None)


if __name__ == '__main__':
  tf.test.main()
