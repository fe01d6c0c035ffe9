# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A score and all that is needed to compare it: ceiling, interval, counts.

A score is a mean over images. Its interval is a percentile bootstrap over
images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13),
unless `details` names another method.
An image without a score is NaN: it is counted, and excluded from the mean.

  score = scores.score('dice', [0.2, 0.4, nan], preprocessing='x / 255')
  score.value, score.n, score.n_undefined  # (0.3, 2, 1)
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
import math
import os
from typing import Any

import numpy as np
from numpy import typing as npt
import tensorflow as tf

from official_ext.harmonization import files

# Samples held in memory at a time: 8 bytes for the index and 8 for the value.
_CHUNK = 1 << 19


def _defined(values) -> np.ndarray:
  """Returns the values that are not NaN, as float64."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1:
    raise ValueError(
      f'Scores have shape {values.shape}; expected one number per image.'
    )
  infinite = np.flatnonzero(np.isinf(values))
  if infinite.size:
    raise ValueError(
      f'Score {infinite[0]} of {len(values)} is {values[infinite[0]]}, which '
      'would make the mean infinite; expected a finite number, or NaN where '
      'the score is undefined.'
    )
  return values[~np.isnan(values)]


def bootstrap_interval(
  values: npt.ArrayLike,
  *,
  confidence: float = 0.95,
  resamples: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """Computes a percentile bootstrap interval of a mean over images.

  Args:
    values: (n,), one per image; NaN values are excluded.
    confidence: between 0 and 1.
    resamples: how often n images are sampled with replacement. Memory does not
      grow with it.
    seed: of the sampling.

  Returns:
    The lower and upper end; NaN for fewer than two values, which do not show
    how much a mean varies.

  Raises:
    ValueError: the values are not of shape (n,) or one is infinite, the
      confidence is not between 0 and 1, or `resamples` is below 1.
  """
  if not 0 < confidence < 1:
    raise ValueError(
      f'confidence is {confidence}; expected a number between 0 and 1, such '
      'as 0.95.'
    )
  if resamples < 1:
    raise ValueError(f'resamples is {resamples}; expected at least 1.')
  defined = _defined(values)
  n = len(defined)
  if n < 2:
    return math.nan, math.nan
  generator = np.random.default_rng(seed)
  means = np.empty(resamples)
  rows = max(1, _CHUNK // n)
  for start in range(0, resamples, rows):
    chunk = means[start : start + rows]
    sampled = generator.integers(n, size=(len(chunk), n))
    np.mean(defined[sampled], axis=1, out=chunk)
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(means, (tail, 1.0 - tail))
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Score:
  """A mean over images and what must be known to compare it with another.

  Attributes:
    name: what was measured.
    value: the mean over the images where it is defined; NaN if it is not
      defined for any image.
    n: the number of those images; None for a score that is not a mean over
      images.
    n_undefined: the number of images without a score; None as for `n`.
    low: lower end of the interval of `value`; NaN if there is no interval.
    high: its upper end.
    confidence: of the interval, between 0 and 1.
    ceiling: the value that people reach, which counts as 1; None if unknown.
    preprocessing: of the images, in one line.
    details: further facts about the score.
  """

  name: str
  value: float
  n: int | None
  n_undefined: int | None
  low: float
  high: float
  confidence: float
  ceiling: float | None
  preprocessing: str
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.ceiling is not None and not 0 < self.ceiling < math.inf:
      raise ValueError(
        f'The ceiling of {self.name} is {self.ceiling}; expected a positive '
        'number, or None if the score of people is unknown.'
      )

  def _over_ceiling(self, value: float) -> float | None:
    return None if self.ceiling is None else value / self.ceiling

  @property
  def normalized(self) -> float | None:
    """The value divided by the ceiling; None without a ceiling."""
    return self._over_ceiling(self.value)

  @property
  def normalized_low(self) -> float | None:
    """Lower end of its interval; the ceiling is treated as exact."""
    return self._over_ceiling(self.low)

  @property
  def normalized_high(self) -> float | None:
    """Upper end of its interval; the ceiling is treated as exact."""
    return self._over_ceiling(self.high)

  @property
  def resampled(self) -> str:
    """What the bootstrap resampled: 'images', or as `details` records."""
    return self.details.get('bootstrap', 'images')

  @property
  def interval_method(self) -> str:
    """How the interval was computed, as captions say it after 'intervals'."""
    return self.details.get('interval', f'bootstrapped over {self.resampled}')

  def to_json(self) -> dict[str, Any]:
    """Returns the fields and the normalized values in strict JSON's types."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    normalized = {name: getattr(self, name) for name in _NORMALIZED}
    return json_safe({**fields, **normalized})

  @classmethod
  def from_json(cls, content: Any) -> 'Score':
    """Reads what `to_json` returned.

    Args:
      content: decoded JSON.

    Returns:
      The score; null becomes NaN in `value`, `low` and `high`.

    Raises:
      ValueError: a field is missing or has another type.
    """
    names = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(content, Mapping) or not (
      {*names, *_NORMALIZED} <= content.keys()
    ):
      raise ValueError('a score is incomplete')
    fields = {name: content[name] for name in names}
    for name in ('value', 'low', 'high'):
      if fields[name] is None:
        fields[name] = math.nan
      elif not isinstance(fields[name], (int, float)):
        raise ValueError(
          f'a score is incomplete: "{name}" is {fields[name]!r}; expected a '
          'number or null'
        )
    return cls(**fields)


_NORMALIZED = ('normalized', 'normalized_low', 'normalized_high')


def score(
  name: str,
  values: npt.ArrayLike,
  *,
  preprocessing: str,
  ceiling: float | None = None,
  confidence: float = 0.95,
  resamples: int = 1000,
  seed: int = 0,
  details: Mapping[str, Any] | None = None,
) -> Score:
  """Makes a score from one value per image.

  Args:
    name: what was measured.
    values: (n,), one per image, NaN where it is undefined.
    preprocessing: of the images, in one line.
    ceiling: the value that people reach, or None.
    confidence: of the interval.
    resamples: of the bootstrap over images.
    seed: of the bootstrap.
    details: further facts about the score.

  Returns:
    The score.

  Raises:
    ValueError: as in `bootstrap_interval`, or the ceiling is not positive.
  """
  defined = _defined(values)
  low, high = bootstrap_interval(
    defined, confidence=confidence, resamples=resamples, seed=seed
  )
  return Score(
    name=name,
    value=float(defined.mean()) if len(defined) else math.nan,
    n=len(defined),
    n_undefined=np.size(values) - len(defined),
    low=low,
    high=high,
    confidence=confidence,
    ceiling=None if ceiling is None else float(ceiling),
    preprocessing=preprocessing,
    details=dict(details or {}),
  )


def json_safe(value: Any) -> Any:
  """Converts a value to types that strict JSON can hold.

  Args:
    value: numbers, text, None, arrays, and mappings and sequences of them.

  Returns:
    The same value in Python's own types. NaN becomes None. JSON has no
    infinity, so that it becomes the text 'inf' or '-inf', which `float` reads.

  Raises:
    TypeError: the value has a type that JSON cannot hold.
  """
  if isinstance(value, Mapping):
    return {str(k): json_safe(v) for k, v in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    return json_safe(value.tolist())
  if isinstance(value, (list, tuple)):
    return [json_safe(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else str(value)
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise TypeError(
    f'JSON cannot hold {value!r} of type {type(value).__name__}; expected a '
    'number, text, a list or a mapping.'
  )


def _write(path: str, content: bytes):
  """Writes a file atomically and creates its folder."""
  tf.io.gfile.makedirs(os.path.dirname(path) or '.')
  files.write(path, content)


def write_json(path: str, value: Any):
  """Writes strict JSON atomically and creates the folder.

  Args:
    path: of the file.
    value: as for `json_safe`.

  Raises:
    TypeError: as in `json_safe`.
  """
  text = json.dumps(json_safe(value), indent=2, allow_nan=False)
  _write(path, f'{text}\n'.encode())


def write_rows(path: str, rows: Sequence[Mapping[str, Any]]):
  """Writes a table atomically and creates its folder.

  Args:
    path: of the file: Parquet if it ends in .parquet, otherwise CSV.
    rows: values by column. The columns are all that occur, in the order of
      their first occurrence; a missing value is empty. NaN stays NaN.

  Raises:
    ImportError: the path asks for Parquet and pyarrow is not installed.
    ValueError: a column mixes types that Parquet cannot hold together.
  """
  columns = list(dict.fromkeys(name for row in rows for name in row))
  encode = _parquet if path.lower().endswith('.parquet') else _csv
  _write(path, encode(path, columns, rows))


def read_rows(path: str) -> list[dict[str, str]]:
  """Reads a CSV table that `write_rows` wrote.

  Args:
    path: of the file.

  Returns:
    The rows, with text by column.
  """
  with tf.io.gfile.GFile(path, 'rb') as f:
    text = f.read().decode()
  return list(csv.DictReader(io.StringIO(text, newline='')))


def _csv(path, columns, rows) -> bytes:
  del path
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue().encode()


def _parquet(path, columns, rows) -> bytes:
  try:
    import pyarrow  # An optional dependency.
    from pyarrow import parquet
  except ImportError:
    raise ImportError(
      f'{path}: writing Parquet needs pyarrow. Run pip install pyarrow, or '
      'give a name that ends in .csv.'
    ) from None
  arrays = {}
  for name in columns:
    values = [row.get(name) for row in rows]
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    try:
      # from_pandas=True would turn NaN, an undefined score, into null, a
      # missing one.
      arrays[name] = pyarrow.array(values, from_pandas=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as e:
      raise ValueError(
        f'{path}: column {name} mixes types ({e}); expected one type. Give a '
        'name that ends in .csv, which can hold both.'
      ) from None
  buffer = pyarrow.BufferOutputStream()
  parquet.write_table(pyarrow.table(arrays), buffer)
  return buffer.getvalue().to_pybytes()
