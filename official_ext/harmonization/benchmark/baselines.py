# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Chooses the images that expected gradients start from.

They are the same for all images of a dataset, so that no map depends on the
batch size, on the order of the images or on where a run was resumed.
"""

import dataclasses
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import image_folder
from official_ext.harmonization.benchmark import labelled_images

# Number of images. Each map draws from all of them.
COUNT = 32


def of_records(
  explainer: str, dataset: labelled_images.Dataset, adapter
) -> dict[str, Any]:
  """Returns the option `baselines` of an explainer, from records.

    options = baselines.of_records(name, dataset, adapter)
    explainer = explainers.get(name, adapter, **options)

  Args:
    explainer: its name.
    dataset: of which up to `COUNT` images are drawn with a fixed seed. They do
      not depend on its field `sample`.
    adapter: of the network.

  Returns:
    The option, float32 (N, h, w, 3); {} if the explainer has no such option.

  Raises:
    protocol.BadDataError: a record cannot be read.
  """
  if not explainers.needs_baselines(explainer):
    return {}
  batches = labelled_images.batches(
    dataclasses.replace(dataset, sample=COUNT),
    adapter.input_size,
    adapter.input_size,
    adapter.scored_classes,
    COUNT,
  )
  return {'baselines': adapter.preprocess(next(batches).images)}


def of_folder(
  explainer: str,
  images: image_folder.ImageFolder,
  names: list[str],
  adapter,
) -> dict[str, Any]:
  """Returns the option `baselines` of an explainer, from a folder.

  Args:
    explainer: its name.
    images: the folder.
    names: of all images, of which up to `COUNT` are drawn with a fixed seed.
    adapter: of the network.

  Returns:
    As `of_records`.

  Raises:
    ValueError: an image cannot be read, or there is only one.
  """
  if not explainers.needs_baselines(explainer):
    return {}
  if len(names) < 2:
    raise ValueError(
      f'{explainer} compares an image with other images, and --images has only '
      'one; expected a folder of images. Choose another explainer.'
    )
  pixels = [images.pixels(n, adapter.input_size) for n in drawn(names)]
  return {'baselines': adapter.preprocess(np.stack(pixels))}


def drawn(names: list[str]) -> list[str]:
  """Returns the names of the images that `of_folder` draws, in their order."""
  order = np.random.default_rng(0).permutation(len(names))[:COUNT]
  return [names[i] for i in sorted(order)]
