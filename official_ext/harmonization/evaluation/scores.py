"""What a score is made of: value, ceiling, interval, counts, circumstances.

A score is a mean over images. Its interval is a percentile bootstrap over
images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13).
A score that an image does not have is NaN: it is counted, never averaged in.
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
import tensorflow as tf

from official_ext.harmonization import files

# Draws held at a time: 8 bytes for the index and 8 for the value of each.
_CHUNK = 1 << 19


def _defined(values) -> np.ndarray:
  """Returns the values that are not NaN, as float64."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1:
    raise ValueError(
      f'Scores have shape {values.shape}: one number per image is expected.'
    )
  infinite = np.flatnonzero(np.isinf(values))
  if infinite.size:
    raise ValueError(
      f'Score {infinite[0]} of {len(values)} is '
      f'{values[infinite[0]]}, and so would be the mean: make '
      'it NaN where it is undefined.'
    )
  return values[~np.isnan(values)]


def bootstrap_interval(
  values: Sequence[float],
  *,
  confidence: float = 0.95,
  resamples: int = 1000,
  seed: int = 0,
) -> tuple[float, float]:
  """Confidence interval of a mean over images, by percentile bootstrap.

  Args:
    values: (n,), one per image; NaN is left out.
    confidence: of the interval, between 0 and 1.
    resamples: how often n images are drawn with replacement.
    seed: of the draws. Memory does not grow with the resamples.

  Returns:
    Its lower and upper end; NaN for fewer than two values, which say nothing of
    how much a mean varies.

  Raises:
    ValueError: the values are no (n,), one is infinite, the confidence is not
      between 0 and 1, or there is no resample.
  """
  if not 0 < confidence < 1:
    raise ValueError(
      f'confidence is {confidence}: give a number between 0 '
      'and 1, such as 0.95.'
    )
  if resamples < 1:
    raise ValueError(f'resamples is {resamples}: give at least 1.')
  values = _defined(values)
  n = len(values)
  if n < 2:
    return math.nan, math.nan
  generator = np.random.default_rng(seed)
  means = np.empty(resamples)
  rows = max(1, _CHUNK // n)
  for start in range(0, resamples, rows):
    chunk = means[start : start + rows]
    drawn = generator.integers(n, size=(len(chunk), n))
    np.mean(values[drawn], axis=1, out=chunk)
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(means, (tail, 1.0 - tail))
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Score:
  """A mean over images and what has to be known to compare it with another.

  Attributes:
    name: what was measured.
    value: the mean over the images where it is defined; NaN where there are
      none.
    n: how many images those are.
    n_undefined: how many images have no score.
    low: lower end of the interval of `value`.
    high: its upper end.
    confidence: of the interval.
    ceiling: the value that people reach, which counts as 1; None where it is
      not known.
    preprocessing: of the images, in a line.
    details: whatever else belongs to the score.
  """

  name: str
  value: float
  n: int
  n_undefined: int
  low: float
  high: float
  confidence: float
  ceiling: float | None
  preprocessing: str
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.ceiling is not None and not 0 < self.ceiling < math.inf:
      raise ValueError(
        f'The ceiling of {self.name} is {self.ceiling}: give a '
        "positive number, or None where people's own score is "
        'not known.'
      )

  def _over_ceiling(self, value: float) -> float | None:
    return None if self.ceiling is None else value / self.ceiling

  @property
  def normalized(self) -> float | None:
    """The value over the ceiling; None without one."""
    return self._over_ceiling(self.value)

  @property
  def normalized_low(self) -> float | None:
    """Lower end of its interval; the ceiling counts as exact."""
    return self._over_ceiling(self.low)

  @property
  def normalized_high(self) -> float | None:
    """Upper end of its interval; the ceiling counts as exact."""
    return self._over_ceiling(self.high)

  def to_json(self) -> dict[str, Any]:
    """Returns all of it, and the normalized values, as `json_safe` does."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    names = ('normalized', 'normalized_low', 'normalized_high')
    return json_safe(
      {**fields, **{name: getattr(self, name) for name in names}}
    )


def score(
  name: str,
  values: Sequence[float],
  *,
  preprocessing: str,
  ceiling: float | None = None,
  confidence: float = 0.95,
  resamples: int = 1000,
  seed: int = 0,
  details: Mapping[str, Any] | None = None,
) -> Score:
  """Makes a score of what was measured on each image.

  Args:
    name: what was measured.
    values: (n,), one per image, NaN where it is undefined.
    preprocessing: of the images, in a line.
    ceiling: the value that people reach, or None.
    confidence: of the interval.
    resamples: of the bootstrap over images.
    seed: of the bootstrap.
    details: whatever else belongs to the score.

  Returns:
    The score.

  Raises:
    ValueError: as `bootstrap_interval`, or the ceiling is not positive.
  """
  defined = _defined(values)
  low, high = bootstrap_interval(
    defined, confidence=confidence, resamples=resamples, seed=seed
  )
  return Score(
    name=name,
    value=float(defined.mean()) if len(defined) else math.nan,
    n=len(defined),
    n_undefined=len(values) - len(defined),
    low=low,
    high=high,
    confidence=confidence,
    ceiling=None if ceiling is None else float(ceiling),
    preprocessing=preprocessing,
    details=dict(details or {}),
  )


def over_ceiling(
  stored: Mapping[str, Any], ceiling: float | None
) -> dict[str, Any]:
  """Gives a stored score another ceiling, which changes how it is shown.

  Args:
    stored: of `Score.to_json`.
    ceiling: the value that people reach, or None.

  Returns:
    The score with that ceiling and its normalized values.
  """
  known = {f.name: stored[f.name] for f in dataclasses.fields(Score)}
  for name in ('value', 'low', 'high'):
    known[name] = math.nan if known[name] is None else known[name]
  return Score(**{**known, 'ceiling': ceiling}).to_json()


def json_safe(value: Any) -> Any:
  """Returns a value as strict JSON can hold it.

  Args:
    value: numbers, text, None, arrays, and mappings and sequences of them.

  Returns:
    The same of Python's own types. NaN is None; JSON has no infinity either,
    so that it is the text 'inf' or '-inf', which `float` reads.

  Raises:
    TypeError: JSON has no such thing.
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
    f'JSON cannot hold {value!r}, of type '
    f'{type(value).__name__}: make it a number, text, list or '
    'mapping.'
  )


def _write(path: str, content: bytes):
  """Writes a file and the folder that it is in."""
  tf.io.gfile.makedirs(os.path.dirname(path) or '.')
  files.write(path, content)


def write_json(path: str, value: Any):
  """Writes strict JSON, whole or not at all.

  Args:
    path: of the file.
    value: whatever `json_safe` takes.

  Raises:
    TypeError: as `json_safe`.
  """
  text = json.dumps(json_safe(value), indent=2, allow_nan=False)
  _write(path, f'{text}\n'.encode())


def write_rows(path: str, rows: Sequence[Mapping[str, Any]]):
  """Writes a table, whole or not at all.

  Args:
    path: of the file: Parquet where it ends in .parquet, else CSV.
    rows: values by column. The columns are all that occur, in the order in
      which they do; a row's missing value is empty. NaN stays NaN.

  Raises:
    ImportError: Parquet is asked for, and pyarrow is not installed.
    ValueError: a column mixes kinds that Parquet cannot hold together.
  """
  columns = list(dict.fromkeys(name for row in rows for name in row))
  encode = _parquet if path.lower().endswith('.parquet') else _csv
  _write(path, encode(path, columns, rows))


def _csv(path, columns, rows) -> bytes:
  del path
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue().encode()


def _parquet(path, columns, rows) -> bytes:
  try:
    import pyarrow  # Not everybody has it, nor needs it.
    from pyarrow import parquet
  except ImportError:
    raise ImportError(
      f'{path} cannot be written without pyarrow: pip install '
      'pyarrow, or end the name in .csv.'
    ) from None
  arrays = {}
  for name in columns:
    values = [row.get(name) for row in rows]
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    try:
      # Not from_pandas: an undefined score is not a missing one.
      arrays[name] = pyarrow.array(values, from_pandas=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as e:
      raise ValueError(
        f'Column {name} of {path} mixes kinds ({e}): give one '
        'kind, or end the name in .csv.'
      ) from None
  buffer = pyarrow.BufferOutputStream()
  parquet.write_table(pyarrow.table(arrays), buffer)
  return buffer.getvalue().to_pybytes()
