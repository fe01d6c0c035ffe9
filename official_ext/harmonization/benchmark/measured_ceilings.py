# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads the ceilings that `ceiling` measured, and matches them to images.

found = measured_ceilings.read('runs/ceiling/ceilings.json')
found.require(comparison_size=224, width=10, release_blur=False)
people = found.of(filenames)
measured_ceilings.ratios(people, influence, groups)['controlled'].value
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import math
import os
import posixpath

import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark import user_jackknife
from official_ext.harmonization.evaluation import scores

# The files of a measurement: scores, and a row per image.
RESULTS, IMAGES = 'ceilings.json', 'images.csv'


@dataclasses.dataclass(frozen=True)
class MeasuredCeilings:
  """Ceilings of a dataset.

  Attributes:
    path: of the JSON file.
    comparison_size: height and width at which maps were compared.
    width: standard deviation of the Gaussian that blurred the maps, in pixels
      of a map of 224.
    release_blur: whether the maps have the release's blur.
    scores: the means, by name: `ceilings.MEASURES` and `ceilings.UPPER`.
    images: of each image that was measured, by its name without extension, the
      value of each of `ceilings.MEASURES`.
    replicates: the means without some of the participants, or None.
    repeated_participants: number of participants who saw several images; None
      in results of versions that did not count them.
  """

  path: str
  comparison_size: int
  width: float
  release_blur: bool
  scores: Mapping[str, scores.Score]
  images: Mapping[str, Mapping[str, float]]
  replicates: user_jackknife.Replicates | None = None
  repeated_participants: int | None = None

  @property
  def caution(self) -> str:
    """Why an interval over images can be too narrow, or empty."""
    if self.replicates is not None or self.repeated_participants == 0:
      return ''
    number = self.repeated_participants
    who = (
      'participants may have seen'
      if number is None
      else f'{choices.plural(number, "participant")} saw'
    )
    return (
      f'{self.path}: {who} several images; the intervals of controlled_person '
      'over images are then too narrow (they cover 72 to 91 % instead of 95 % '
      'in simulations). Run ceiling again with --user_groups=50 for intervals '
      'over participants.'
    )

  def require(
    self, *, comparison_size: int, width: float, release_blur: bool
  ) -> None:
    """Checks that people's maps were made as those that are scored.

    Args:
      comparison_size: height and width at which maps are compared; 0 if they
        depend on the model.
      width: as the attribute.
      release_blur: as the attribute.

    Raises:
      ValueError: one of them differs.
    """
    if not comparison_size:
      raise ValueError(
        f"{self.path}: ceilings do not apply to maps of each model's input "
        f'size; expected maps of the size {self.comparison_size}. Set '
        f'--comparison_size={self.comparison_size}.'
      )
    for name, expected in (
      ('comparison_size', comparison_size),
      ('width', width),
      ('release_blur', release_blur),
    ):
      found = getattr(self, name)
      if found != expected:
        raise ValueError(
          f'{self.path}: the ceilings were measured with {name}={found}; '
          f'expected {name}={expected}, as for the scores. Run ceiling again '
          f'with --size={comparison_size} --width={width:g}'
          f'{" --release_blur" if release_blur else ""}.'
        )

  def of(self, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the values of images.

    An image is found by its path without extension. If this path is unknown,
    the last part of it decides, as long as only one image in the file has it:
    records may hold `n01440764_10026.JPEG` where clicks name
    `n01440764/n01440764_10026.JPEG`, or the other way round.

    Args:
      names: (n,), such as image/filename of records.

    Returns:
      float64 (n,), by name of the measure; NaN for images without a ceiling.

    Raises:
      ValueError: the last part of a name fits several images, or no name fits.
    """
    if names and not any(names):
      raise ValueError(
        f'{self.path}: the records have no names of images, by which ceilings '
        'are matched; expected image/filename. Use records of '
        'data.build_clickme_records.'
      )
    by_stem: dict[str, list[str]] = {}
    for key in self.images:
      by_stem.setdefault(posixpath.basename(key), []).append(key)
    keys = [self._find(name, by_stem) for name in names]
    if names and not any(keys):
      raise ValueError(
        f'{self.path}: none of the {len(names)} images, such as {names[0]!r}, '
        f'is among the {len(self.images)} with ceilings, such as '
        f'{next(iter(self.images), "")!r}; expected the same names. Measure '
        'the ceilings from the clicks on these images.'
      )
    return {
      measure: np.array(
        [self.images[k][measure] if k else math.nan for k in keys], np.float64
      )
      for measure in ceilings.MEASURES
    }

  def over_participants(
    self, ratios: Mapping[str, normalization.Normalized]
  ) -> dict[str, tuple[float, float]]:
    """Computes the ratios' intervals over participants, by a jackknife.

    They show how much what people reach depends on who took part. The images
    and the human maps that models were compared with stay as they are. If not
    all images of the ceilings are scored, the denominator is taken to change by
    the same factor on those that are.

    Args:
      ratios: from `ratios`.

    Returns:
      Lower and upper end, by ratio; empty if the ceilings have no replicates.
    """
    if self.replicates is None:
      return {}
    everyone = normalization.denominators(self.replicates.everyone)
    found = {}
    for name, ratio in ratios.items():
      without = {
        group: ratio.value * everyone[name] / denominator[name]
        for group, means in self.replicates.without.items()
        for denominator in [normalization.denominators(means)]
      }
      found[name] = normalization.user_interval(ratio.value, without)
    return found

  def _find(self, name: str, by_stem: Mapping[str, list[str]]) -> str:
    key = image_key(name)
    if key in self.images:
      return key
    keys = by_stem.get(posixpath.basename(key), [])
    # A name with folders only fits a longer or shorter path that ends alike.
    keys = [k for k in keys if key.endswith(f'/{k}') or k.endswith(f'/{key}')]
    if len(keys) > 1:
      raise ValueError(
        f'{self.path}: the image {name!r} may be {keys[0]!r} or {keys[1]!r}; '
        'expected one image. Give the images their folders.'
      )
    return keys[0] if keys else ''


def ratios(
  people: Mapping[str, np.ndarray],
  influence: Sequence[float],
  groups: Sequence[str],
) -> dict[str, normalization.Normalized]:
  """Divides specific alignment by what people reach on the same images.

  Args:
    people: from `MeasuredCeilings.of`.
    influence: (n,), of the images on the alignment, see `specificity`.
    groups: (n,), of the images.

  Returns:
    The ratios `controlled` and `controlled_person`, see `normalization`.
  """
  return {
    'controlled': normalization.controlled(
      influence,
      people['split_half'],
      people['spearman_brown'],
      people['floor'],
      groups,
    ),
    'controlled_person': normalization.controlled_person(
      influence,
      people['leave_one_out'],
      people['leave_one_out_shuffled'],
      groups,
    ),
  }


def means(
  people: Mapping[str, np.ndarray], groups: Sequence[str]
) -> dict[str, statistics.Estimate]:
  """Averages the ceilings over the images that are scored.

  Args:
    people: from `MeasuredCeilings.of`.
    groups: (n,), of the images.

  Returns:
    The mean of each of `ceilings.MEASURES`, and `ceilings.UPPER`, which is NaN
    where the mean Spearman-Brown is negative.
  """
  found = {}
  for measure, values in people.items():
    if measure in ceilings.SHUFFLED:
      values = normalization.floor_influence(values)
    found[measure] = statistics.mean(values, groups)
  brown = found['spearman_brown']
  value, low, high = (
    math.sqrt(x) if x >= 0 else math.nan
    for x in (brown.value, brown.low, brown.high)
  )
  error = brown.standard_error / (2 * value) if value else math.nan
  found[ceilings.UPPER] = dataclasses.replace(
    brown, value=value, low=low, high=high, standard_error=error
  )
  return found


def image_key(name: str) -> str:
  """Returns the name by which an image is known: its path, no extension."""
  name = posixpath.normpath(name.replace('\\', '/')).lstrip('/')
  return posixpath.splitext(name)[0]


def read(path_json: str, path_csv: str | None = None) -> MeasuredCeilings:
  """Reads the results of `ceiling`.

  Args:
    path_json: ceilings.json.
    path_csv: images.csv; by default the file with this name next to it.

  Returns:
    The ceilings.

  Raises:
    ValueError: a file is missing, invalid, or of an earlier version.
  """
  if tf.io.gfile.isdir(path_json):
    raise ValueError(
      f'{path_json} is a folder; expected {RESULTS} of ceiling. Give '
      f'{os.path.join(path_json, RESULTS)}.'
    )
  if path_csv is None:
    path_csv = os.path.join(os.path.dirname(path_json), IMAGES)
  _require(path_json)
  content = files.read_json(path_json, RESULTS)
  try:
    maps = content['maps']
    found = {
      name: scores.Score.from_json(content['scores'][name])
      for name in (*ceilings.MEASURES, ceilings.UPPER)
    }
    settings = {
      'comparison_size': int(maps['comparison_size']),
      'width': float(maps['width']),
      'release_blur': bool(maps['release_blur']),
    }
    users = content.get('users')
    replicates = user_jackknife.Replicates.from_json(users) if users else None
    repeated = content.get('repeated_participants')
    repeated = None if repeated is None else int(repeated)
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f'{path_json}: {e} is missing or invalid; expected {RESULTS} of this '
      'version. Run ceiling again.'
    ) from None
  _require(path_csv)
  return MeasuredCeilings(
    path_json,
    scores=found,
    images=_images(path_csv),
    replicates=replicates,
    repeated_participants=repeated,
    **settings,
  )


def _require(path: str):
  if not tf.io.gfile.exists(path):
    raise ValueError(
      f'{path} does not exist; expected a result of ceiling. Check the path.'
    )


def _images(path: str) -> dict[str, dict[str, float]]:
  with tf.io.gfile.GFile(path, 'rb') as f:
    table = csv.DictReader(io.StringIO(f.read().decode('utf-8')))
  columns = ('image', *ceilings.MEASURES)
  missing = [c for c in columns if c not in (table.fieldnames or ())]
  if missing:
    raise ValueError(
      f'{path}: the column {missing[0]} is missing; expected '
      f'{", ".join(columns)}. Run ceiling again.'
    )
  found = {}
  for number, row in enumerate(table, 2):
    key = image_key(row['image'])
    if key in found:
      raise ValueError(
        f'{path}: line {number} is a second row of {row["image"]!r} (without '
        'extension); expected one row per image.'
      )
    try:
      found[key] = {name: float(row[name]) for name in ceilings.MEASURES}
    except (TypeError, ValueError):
      raise ValueError(
        f'{path}: line {number} has no number for each of '
        f'{", ".join(ceilings.MEASURES)}; expected numbers or nan.'
      ) from None
  return found
