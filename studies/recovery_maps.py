# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps of networks, of controls and of simulated people, kept in a folder.

Each file carries the identity of what it was computed from and is computed
again if that has changed.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any
import zlib

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import alignment
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import map_alignment
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import layer_access
from official_ext.harmonization.benchmark.adapters import spec as spec_lib
from official_ext.harmonization.ops import blur
from studies import simulated_people

# Controls whose maps do not depend on people.
CONTROLS = ('centre', 'sobel', 'contrast', 'colour')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What maps depend on besides networks.

  Attributes:
    dataset: the records; `sample` says how many images are used.
    explainers: names, see `benchmark.explainers`.
    participants: numbers of simulated participants of an image.
    clicks: mean number of clicks of a participant.
    random_twins: number of networks with fresh weights for each network.
    size: height and width at which maps are compared.
    group_by: as `alignment.Alignment.group_by`.
    samples: of explainers that have samples or steps.
    batch_size: no map depends on it.
  """

  dataset: labelled_images.Dataset
  explainers: tuple[str, ...]
  participants: tuple[int, ...]
  clicks: float
  random_twins: int
  size: int
  group_by: str = ''
  samples: int = 25
  batch_size: int = 32


def kept(
  path: str, depends_on: Any, make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Returns the arrays of a file, made again if what it depends on changed."""
  key = identity.sha256(depends_on)
  if os.path.exists(path):
    with np.load(path) as stored:
      if str(stored['key']) == key:
        return {name: stored[name] for name in stored.files if name != 'key'}
  made = dict(make())
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with files.replacing(path) as partial, open(partial, 'wb') as f:
    np.savez(f, key=key, **made)
  return made


class Folder:
  """The maps of a study.

  Attributes:
    settings: what maps depend on.
    truths: names of the networks that people see as.
    rows: names of networks, random twins and controls, in this order.
    unavailable: why a row has no maps, by row and explainer.
    accuracy: part of the images that a network or random twin classifies right.
    n: number of images.
    groups: int (n,).
  """

  def __init__(self, path: str, settings: Settings):
    """Opens the folder.

    Args:
      path: of the folder.
      settings: what maps depend on.
    """
    self.path, self.settings = path, settings
    self.truths: list[str] = []
    self.rows: list[str] = []
    self.unavailable: dict[tuple[str, str], str] = {}
    self.accuracy: dict[str, float] = {}
    names = settings.dataset.names()
    self.n = len(names)
    matches = alignment.group_names(settings.group_by, names)
    self.groups = specific_alignment.groups(matches, [''] * self.n)
    self._keys: dict[tuple[str, str], Any] = {}
    self._data = {
      **settings.dataset.contents(identity.Digests()),
      **settings.dataset.options(),
    }

  def _file(self, *names: str) -> str:
    parts = [name.replace(os.sep, '_') for name in names]
    return os.path.join(self.path, parts[0], '.'.join([*parts[1:], 'npz']))

  def explain_all(self, models: Sequence[model_specs.Model]):
    """Computes the maps of all rows that are not in the folder yet.

    Args:
      models: the networks, with different names.
    """
    self.truths = [model.name for model in models]
    twins = []
    for model in tqdm.tqdm(models, unit=' networks', disable=None):
      adapter = spec_lib.build(model.spec)
      adapter.name = model.name
      self._explain(adapter, model.name)
      for seed in range(self.settings.random_twins):
        twin = f'random-{model.name}-{seed}'
        try:
          adapter.randomize(seed)
        except fresh_weights.Unavailable as e:
          print(f'{twin} is not available: {e}')
          break
        self._explain(adapter, twin)
        twins.append(twin)
      del adapter
      tf_keras.backend.clear_session()
    found = [f'{controls.PREFIX}{name}' for name in CONTROLS]
    self.rows = [*self.truths, *twins, *found]

  def _explain(self, adapter, name: str):
    """Computes the maps of a network by all explainers."""
    network = {**identity.network(adapter), 'response': None}
    for explainer in self.settings.explainers:
      depends_on = {
        'network': network,
        'data': self._data,
        'explainer': explainer,
        'samples': self._samples(explainer),
        'version': 1,
      }
      try:
        found = kept(
          self._file('maps', name, explainer),
          depends_on,
          lambda e=explainer: self._compute(adapter, e),
        )
      except (base.Unscorable, layer_access.Unavailable) as e:
        self.unavailable[name, explainer] = str(e)
        print(f'{name} has no map by {explainer}: {e}')
        continue
      self._keys[name, explainer] = identity.sha256(depends_on)
      self.accuracy[name] = float(found['correct'].mean())

  def _samples(self, explainer: str) -> int | None:
    has_samples = explainers.samples_option(explainer)
    return self.settings.samples if has_samples else None

  def _batches(self, input_size, scored_classes):
    return labelled_images.batches(
      self.settings.dataset,
      input_size,
      (self.settings.size,) * 2,
      scored_classes,
      self.settings.batch_size,
    )

  def _compute(self, adapter, explainer: str) -> dict[str, np.ndarray]:
    maps, correct = [], []
    for batch in self._batches(adapter.input_size, adapter.scored_classes):
      found, predictions = map_alignment.explain(
        adapter,
        batch,
        explainer,
        adapter.input_size,
        samples=self._samples(explainer),
      )
      maps.append(found)
      correct.append(predictions == batch.labels)
    return {'maps': np.concatenate(maps), 'correct': np.concatenate(correct)}

  def key(self, name: str, explainer: str) -> Any:
    """Identifies the maps of a row, as JSON; None if they do not exist."""
    if name.startswith(controls.PREFIX):
      return [name, self._data, self.settings.size]
    return self._keys.get((name, explainer))

  def maps(self, name: str, explainer: str) -> np.ndarray:
    """Returns the maps of a row, float32 (n, size, size)."""
    if name.startswith(controls.PREFIX):
      return self._control(name)
    with np.load(self._file('maps', name, explainer)) as stored:
      maps = stored['maps']
    return map_alignment.resize_maps(maps, (self.settings.size,) * 2)

  def _control(self, name: str) -> np.ndarray:
    size = self.settings.size

    def make():
      control = name.removeprefix(controls.PREFIX)
      return {
        'maps': np.concatenate(
          [
            controls.maps(control, batch.images, size)
            for batch in self._batches((size, size), 1 << 31)
          ]
        )
      }

    return kept(self._file('maps', name), self.key(name, ''), make)['maps']

  def people(self, truth: str, explainer: str) -> dict[str, np.ndarray]:
    """Simulates people who see as a network.

    Args:
      truth: the network.
      explainer: of the maps that the clicks are drawn from.

    Returns:
      For each number of participants, 'plain-<number>': the human maps, only
      resized, and 'released-<number>': blurred as the release does. float32
      (n, size, size); NaN for images without clicks.
    """
    settings = self.settings
    depends_on = [
      self._keys[truth, explainer],
      list(settings.participants),
      settings.clicks,
      settings.size,
      1,
    ]
    return kept(
      self._file('people', truth, explainer),
      depends_on,
      lambda: self._simulate(truth, explainer),
    )

  def _simulate(self, truth: str, explainer: str) -> dict[str, np.ndarray]:
    settings, size = self.settings, (self.settings.size,) * 2
    with np.load(self._file('maps', truth, explainer)) as stored:
      maps = stored['maps']
    frame = (self.n, simulated_people.FRAME, simulated_people.FRAME)
    drawn = {
      p: np.full(frame, np.nan, np.float32) for p in settings.participants
    }
    for i, importance in enumerate(maps):
      found = simulated_people.human_maps(
        importance,
        settings.participants,
        clicks=settings.clicks,
        seed=[zlib.crc32(f'{truth} {explainer}'.encode()), i],
      )
      for number, values in (found or {}).items():
        drawn[number][i] = values
    made = {}
    for number, values in drawn.items():
      values = values[..., np.newaxis]
      plain = tf.image.resize(values, size, antialias=True)
      made[f'plain-{number}'] = plain.numpy()[..., 0]
      released = blur.blur_maps(tf.constant(values), size)
      made[f'released-{number}'] = released.numpy()[..., 0]
    return made
